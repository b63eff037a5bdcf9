"""Plans against llama-fit-params: forecast speeds for the same file and memory, and planning times.

Devices are RPC servers on loopback with simulated memory; files are sparse, with real headers. Both placements are
rated by our cost model for RTX 3090s and two channels of DDR5. Cases where llama-fit-params gives up are counted.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from quantize.plan import QuantizeOptions
from quantize.plan import make_plan as make_conversion
from qwenctl.errors import QwenctlError
from qwenctl.machine import read_devices
from qwenctl.machine.profile import GIB, Device, Machine
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.context_budget import ContextParams
from qwenctl.placement.forecast import token_seconds
from qwenctl.placement.layer_split import split_layers
from qwenctl.placement.planner import make_plan
from qwenctl.placement.problem import PlacementProblem, build_problem
from qwenctl.placement.tensor_inventory import TOKEN_EMBEDDINGS, TensorInventory, from_gguf
from qwenctl.placement.trial_load import plan_with_dry_load
from qwenctl.protocol.placement import CPU
from tests.benchmarks.figures import Figure, at_least, at_most, ratio
from tests.benchmarks.settings import Settings
from tests.support.checkpoints import make_sparse
from tests.support.qwen35_layout import PUBLISHED
from tests.support.rpc_server import rpc_server

_CASES = (("35B", "Q4_K_M", (12,)), ("35B", "Q8_0", (24,)), ("122B", "Q2_K", (24, 24)), ("397B", "Q4_K_M", (24,)),
          ("397B", "Q4_K_M", (32, 16)))  # fmt: skip
_CONSTRAINTS = PlacementConstraints(context=32_768, threads=1, micro_batch=512, fit_targets=(GIB,))
_OVERRIDE = r"blk\.3\.ffn_up_exps"
_GIVEN_UP = (
    ("-ngl 30", replace(_CONSTRAINTS, gpu_layers=30)),
    (f"-ot {_OVERRIDE}=CPU", replace(_CONSTRAINTS, overrides=((_OVERRIDE, CPU),))),
)
_TOO_MANY = "--n-cpu-moe 10"
_ARGUMENT = re.compile(r"-(c|ngl|ts|ot) (?:\"([^\"]*)\"|(\S+))")


def run(settings: Settings) -> Iterator[Figure]:
    """Each case once per run; without llama.cpp only our own time."""
    for model, type_name, sizes in _CASES:
        path = _header_only(settings.folder, model, type_name)
        with ExitStack() as servers:
            endpoints = [servers.enter_context(rpc_server(size * GIB)) for size in sizes]
            name = f"{model} {type_name}, {' + '.join(f'{size} GiB' for size in sizes)}"
            yield from _case(settings, name, from_gguf(path), endpoints)
    if settings.peer is not None:
        yield from _where_it_gives_up(settings, settings.peer.programs)


def _case(settings: Settings, name: str, model: TensorInventory, endpoints: Sequence[str]) -> Iterator[Figure]:
    machine, constraints = _machine(endpoints), replace(_CONSTRAINTS, rpc=tuple(endpoints))
    planning, ours, whole, theirs, fitting = [], [], [], [], []
    arguments: dict[str, str] = {}
    for _ in settings.rounds():
        start = time.perf_counter()
        make_plan(model, machine, constraints)
        planning.append(time.perf_counter() - start)
        plan = plan_with_dry_load(from_gguf(Path(model.path)), machine, constraints)
        whole.append(time.perf_counter() - start - planning[-1])
        ours.append(plan.forecast.decode)
        if settings.peer is not None:
            start = time.perf_counter()
            arguments = _fit(settings.peer.programs, Path(model.path), endpoints)
            fitting.append(time.perf_counter() - start)
            theirs.append(_speed(model, machine, constraints, arguments))
    yield Figure(f"{name}: seconds of a plan", planning, at_most(0.5), "")
    if theirs:
        fits_at_once = "ot" not in arguments  # then llama-fit-params tries one load, and not one for each guess
        yield ratio(f"{name}: forecast", ours, theirs, "tokens/s", at_least(1.0), "llama-fit-params")
        goal = None if fits_at_once else at_most(0.3)
        yield ratio(f"{name}: time with trial loads", whole, fitting, "s", goal, "llama-fit-params")


def _where_it_gives_up(settings: Settings, programs: Path) -> Iterator[Figure]:
    """1 for each case in which we have a plan, or say what would fit, and llama-fit-params has none."""
    path = _header_only(settings.folder, "35B", "Q4_K_M")
    with rpc_server(12 * GIB) as endpoint:
        machine = _machine([endpoint])
        for given, constraints in _GIVEN_UP:
            plan = plan_with_dry_load(from_gguf(path), machine, replace(constraints, rpc=(endpoint,)))
            gives_up = _run(programs, path, [endpoint], *given.split()).returncode != 0
            detail = f"{plan.forecast.decode:.1f} tokens/s to nothing"
            yield _yes(f"{given} and automatic fit: ours plans, the peer gives up", plan.exact and gives_up, detail)
        refusal = _refusal(from_gguf(path), machine, replace(_CONSTRAINTS, cpu_experts=10))
        gives_up = _run(programs, path, [endpoint], *_TOO_MANY.split()).returncode != 0
        what = f"{_TOO_MANY}: ours says what fits, the peer gives up"
        yield _yes(what, gives_up and " fits" in refusal.hint, refusal.hint)
        refusal = _refusal(from_gguf(path), replace(machine, ram_total=8 * GIB, ram_available=7 * GIB), _CONSTRAINTS)
        takes_it = _run(programs, path, [endpoint]).returncode == 0
        what = "8 GiB of RAM: ours says what is missing, the peer fits the GPU alone"
        yield _yes(what, takes_it and "of RAM" in refusal.message, refusal.message)


def _yes(what: str, is_so: bool, detail: str) -> Figure:
    return Figure(f"35B Q4_K_M, 12 GiB, {what}", [float(is_so)], at_least(1), "llama-fit-params", detail)


def _refusal(model: TensorInventory, machine: Machine, constraints: PlacementConstraints) -> QwenctlError:
    try:
        make_plan(model, machine, constraints)
    except QwenctlError as error:
        return error
    return QwenctlError("")


def _header_only(folder: Path, model: str, type_name: str) -> Path:
    path = folder / f"{model}-{type_name}.gguf"
    if not path.exists():
        source = folder / model
        if not source.exists():
            make_sparse(source, PUBLISHED[model])
        [file] = make_conversion(source, path, QuantizeOptions(type_name, vision=False)).text_files
        with path.open("wb") as header_only:
            header_only.write(file.header)
            header_only.truncate(file.n_bytes)
    return path


def _machine(endpoints: Sequence[str]) -> Machine:
    found = [device for device in read_devices(endpoints) if device.kind == "gpu"]
    devices = [Device(one.name, one.backend, "", one.total_bytes, one.free_bytes, 842e9, 26e9) for one in found]
    return Machine(768 * GIB, 760 * GIB, 66e9, 8, tuple(devices))


def _fit(programs: Path, path: Path, endpoints: Sequence[str]) -> dict[str, str]:
    """The arguments that llama-fit-params prints."""
    done = _run(programs, path, endpoints)
    done.check_returncode()
    return {name: quoted or plain for name, quoted, plain in _ARGUMENT.findall(done.stdout)}


def _run(programs: Path, path: Path, endpoints: Sequence[str], *more: str) -> subprocess.CompletedProcess[str]:
    fixed = ["-c", "32768", "-fitt", "1024", "-t", "1", "--rpc", ",".join(endpoints)]
    command = [str(programs / "llama-fit-params"), "-m", str(path), *fixed, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def _speed(
    model: TensorInventory, machine: Machine, constraints: PlacementConstraints, arguments: dict[str, str]
) -> float:
    """Tokens per second of the placement by llama-fit-params."""
    problem = build_problem(model, machine, constraints, ContextParams(32_768, 1, "f16", "f16", 512), {})
    rows = len(problem.layer_slots)
    given = int(arguments["ngl"])
    count = rows if given < 0 else min(rows, given)
    weights = [float(part) for part in arguments.get("ts", "1").split(",")]
    weights += [0.0] * (len(machine.devices) - len(weights))
    counts = split_layers(count, weights)
    owners = [CPU] * (rows - count) + [d.name for d, n in zip(machine.devices, counts, strict=True) for _ in range(n)]
    return 1 / token_seconds(machine, _reads(problem, owners, arguments.get("ot", "")), count)


def _reads(problem: PlacementProblem, owners: Sequence[str], overrides: str) -> dict[str, float]:
    """The bytes that a token reads, by memory."""
    pairs = [one.rpartition("=") for one in overrides.split(",") if one]
    reads = dict.fromkeys([CPU, *(device.name for device in problem.machine.devices)], 0.0)
    for row, owner in zip(problem.layer_slots, owners, strict=True):
        reads[owner] += 2 * row.cache if not row.full_read else 0.0  # the state, read and written
    for tensor in problem.inventory.tensors:
        if problem.is_loaded(tensor):
            own = CPU if tensor.name == TOKEN_EMBEDDINGS else owners[tensor.layer]
            found = next((buffer for pattern, _, buffer in pairs if re.search(pattern, tensor.name)), own)
            name = CPU if found == CPU else re.sub(r"\[.*", "", found)
            reads[name] += tensor.n_bytes * problem.inventory.token_fraction(tensor)
    return reads
