"""Opens a model: a path and a `LoadRequest` come in, an engine with the model loaded goes out.

`resolve` determines how to load a model: by a plan if there is anything to plan, else with llama.cpp's own defaults.
Without a GPU and options that need one, the hardware is not inspected. `open_model` loads the model like that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError, command_line, quote
from qwenctl.loading.checked_backend import Notify, read_usable_hardware, start_engine
from qwenctl.loading.load_engine import Follow, LoggingEngine, OpenRequest, load_engine, open_by_plan, wait_for_load
from qwenctl.placement.constraints import LoadRequest, PlacementConstraints, validate_constraints
from qwenctl.placement.engine_args import constraints_of, load_params
from qwenctl.protocol.load import LoadParams, ModelInfo
from qwenctl.terminal.streams import warn

if TYPE_CHECKING:
    from qwenctl.engine.client import Engine
    from qwenctl.machine.profile import Machine
    from qwenctl.placement.plan import Plan


@dataclass(frozen=True)
class ResolvedLoad:
    """How to load a model: `params`, and the `plan` they come from, if any. `request` includes tuned settings."""

    request: LoadRequest
    params: LoadParams
    plan: Plan | None = None


def open_model(
    path: Path,
    request: LoadRequest = LoadRequest(),  # noqa: B008 - frozen
    start: Callable[[], LoggingEngine] = start_engine,
    follow: Follow = wait_for_load,
    notify: Notify = warn,
) -> LoadedEngine:
    """A new engine with the model at `path`; the caller closes it.

    `follow` shows the progress; `notify` gets a line when a plan has to be changed. Raises QwenctlError.
    """
    resolved = resolve(path, request, notify)
    plan = resolved.plan
    if plan is None:
        return LoadedEngine(*load_engine(path, resolved.params, start, follow))
    if request.plan is not None:
        constraints = replace(constraints_of(plan.settings), vision_bytes=request.constraints.vision_bytes)
    else:  # a smaller plan may put experts elsewhere than tuning found best
        constraints = replace(resolved.request.constraints, cpu_experts=request.constraints.cpu_experts)

    def replan(limits: Mapping[str, int]) -> Plan:
        from qwenctl.placement.tensor_inventory import from_gguf
        from qwenctl.placement.trial_load import plan_with_dry_load

        return plan_with_dry_load(from_gguf(path), plan.machine, replace(constraints, limits=tuple(limits.items())))

    return open_by_plan(path, plan, OpenRequest(start, follow, replan, notify))


def resolve(path: Path, request: LoadRequest, notify: Notify = warn, *, tuned: bool = True) -> ResolvedLoad:
    """How to load the model at `path`. Raises QwenctlError.

    With `tuned`, settings found by `qwenctl tune` apply where the request leaves them open. If the tuned number of
    experts on GPUs does not fit, because less memory is free than back then, the plan decides on it.
    """
    from qwenctl.tune.store import apply_tuning, load_tuning

    if request.plan is not None or not tuned:
        return _resolve(path, request, notify)
    constraints = apply_tuning(request.constraints, load_tuning(path))
    try:
        return _resolve(path, replace(request, constraints=constraints), notify)
    except QwenctlError:
        if constraints.cpu_experts == request.constraints.cpu_experts:
            raise
    constraints = replace(constraints, cpu_experts=request.constraints.cpu_experts)
    return _resolve(path, replace(request, constraints=constraints), notify)


def _resolve(path: Path, request: LoadRequest, notify: Notify) -> ResolvedLoad:
    if request.plan is not None:
        plan = _with_drafts(load_plan_file(request.plan, path), request.constraints)
        return ResolvedLoad(request, plan.settings, plan)
    machine = detect_machine(path, request.constraints, notify)
    if machine is None:
        return ResolvedLoad(request, load_params(request.constraints))
    from qwenctl.placement.tensor_inventory import from_gguf
    from qwenctl.placement.trial_load import plan_with_dry_load

    plan = plan_with_dry_load(from_gguf(path), machine, request.constraints)
    return ResolvedLoad(request, plan.settings, plan)


def _with_drafts(plan: Plan, constraints: PlacementConstraints) -> Plan:
    """`plan` with the drafts that are asked for; unless they are automatic, they are not the plan's."""
    draft = plan.settings.draft if constraints.draft == "auto" else constraints.draft
    settings = replace(
        plan.settings, draft=draft, draft_max=constraints.draft_max or plan.settings.draft_max,
        draft_min=constraints.draft_min or plan.settings.draft_min,
    )  # fmt: skip
    return replace(plan, settings=settings)


def load_plan_file(file: Path, path: Path) -> Plan:
    """The plan in `file`. Raises QwenctlError if it is not a plan, or not one for the model at `path`."""
    from qwenctl.placement.memory_breakdown import matches_model
    from qwenctl.placement.plan_file import read_plan
    from qwenctl.placement.tensor_inventory import from_gguf

    plan = read_plan(file)
    if not matches_model(from_gguf(path), plan):
        raise QwenctlError(
            f"{file.name} is a plan for {plan.model}, not for {path.name}",
            f"{command_line('plan', path, '--json')} > {quote(file)}",
            ExitCode.BAD_DATA,
        )
    return plan


def detect_machine(path: Path, constraints: PlacementConstraints, notify: Notify = warn) -> Machine | None:
    """The machine to plan for; None if there is nothing to plan. Raises QwenctlError."""
    from qwenctl.machine.devices import check_servers
    from qwenctl.machine.llama_build import has_gpu_build

    validate_constraints(constraints)
    if not (has_gpu_build() or constraints.constrains_devices or _is_too_large(path, constraints)):
        return None
    check_servers(constraints.rpc)
    return read_usable_hardware(constraints, notify)


def _is_too_large(path: Path, constraints: PlacementConstraints) -> bool:
    """Whether the files exceed the RAM, or with a long context the free RAM; then a plan explains what is missing."""
    from qwenctl.machine import read_memory
    from qwenctl.models.context_memory import DEFAULT_TOKENS, context_memory_from_file
    from qwenctl.models.gguf_check import split_files

    memory = read_memory()
    n_bytes = sum(file.stat().st_size for file in split_files(path) if file.exists())
    if constraints.context > DEFAULT_TOKENS and (context := context_memory_from_file(path)) is not None:
        tokens = constraints.context * context.bytes_per_token(constraints.cache_k, constraints.cache_v)
        return n_bytes + tokens > memory.available_bytes
    return n_bytes > memory.total_bytes


@contextmanager
def open_engine(path: Path, params: LoadParams, follow: Follow = wait_for_load) -> Iterator[tuple[Engine, ModelInfo]]:
    """Inside, an engine with the model loaded, and what was loaded. Raises QwenctlError."""
    engine, loaded = load_engine(path, params, start_engine, follow)
    with engine:
        yield engine, loaded
