"""Opens a model as the options for its placement ask, by a plan where there is anything to plan.

Without a GPU, and without an option that needs one, nothing is asked of the machine and llama.cpp's own defaults hold.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwenctl.backend_check.check import require_backend
from qwenctl.engine.client import Engine
from qwenctl.engine.interface import InferenceEngine, LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.paths import log_folder
from qwenctl.loading.checked_backend import Tell, read_usable_hardware
from qwenctl.placement.constraints import LoadOptions, PlacementConstraints, validate_constraints
from qwenctl.protocol.load import LoadParams, ModelInfo
from qwenctl.terminal.streams import warn

if TYPE_CHECKING:
    from qwenctl.loading.replan import Follow, LoggingEngine
    from qwenctl.machine.profile import Machine
    from qwenctl.placement.plan import Plan


_BATCH, _MICRO_BATCH = 2048, 512


def open_model(
    path: Path, asked: LoadOptions, start: Callable[[], LoggingEngine], follow: Follow, tell: Callable[[str], None]
) -> LoadedEngine:
    """A new engine with the model in it; `follow` shows the progress, `tell` what has changed of a plan."""
    given, (asked, plan) = asked, plan_with_tuning(path, asked, tell)
    if plan is None:
        return _open_plainly(path, default_load_params(asked.wishes), start, follow)
    from qwenctl.loading.replan import OpenRequest, open_by_plan

    # A smaller plan is free to put experts elsewhere than a tuning has found best.
    wishes = _wishes_of(plan) if asked.plan else replace(asked.wishes, cpu_experts=given.wishes.cpu_experts)

    def replan(limits: Mapping[str, int]) -> Plan:
        from qwenctl.placement.tensor_inventory import from_gguf
        from qwenctl.placement.trial_load import plan_with_dry_load

        return plan_with_dry_load(from_gguf(path), plan.machine, replace(wishes, limits=tuple(limits.items())))

    return open_by_plan(path, plan, OpenRequest(start, follow, replan, tell))


def plan_with_tuning(path: Path, asked: LoadOptions, tell: Tell = warn) -> tuple[LoadOptions, Plan | None]:
    """`asked` with what `qwenctl tune` has found for this model, where nothing else is asked for, and the plan for it.

    Where that has no room, for less memory is free than there was, experts lie where the plan puts them.
    """
    from qwenctl.tune.store import apply_tuning, find

    wishes = asked.wishes if asked.plan is not None else apply_tuning(asked.wishes, find(path))
    tuned = replace(asked, wishes=wishes)
    try:
        return tuned, make_load_plan(path, tuned, tell)
    except QwenctlError:
        if wishes.cpu_experts == asked.wishes.cpu_experts:
            raise
    planned = replace(asked, wishes=replace(wishes, cpu_experts=asked.wishes.cpu_experts))
    return planned, make_load_plan(path, planned, tell)


def make_load_plan(path: Path, asked: LoadOptions, tell: Tell = warn) -> Plan | None:
    """The plan to load by; None where there is nothing to plan. Raises QwenctlError."""
    if asked.plan is not None:
        return load_plan_file(asked.plan, path)
    machine = detect_machine(path, asked.wishes, tell)
    if machine is None:
        return None
    from qwenctl.placement.tensor_inventory import from_gguf
    from qwenctl.placement.trial_load import plan_with_dry_load

    return plan_with_dry_load(from_gguf(path), machine, asked.wishes)


def load_plan_file(file: Path, path: Path) -> Plan:
    """The plan in `file`, for the model at `path`. Raises QwenctlError if it is none, or is one for another model."""
    from qwenctl.placement.memory_breakdown import matches_model
    from qwenctl.placement.plan import from_json
    from qwenctl.placement.tensor_inventory import from_gguf

    plan = from_json(file.read_text("utf-8", "replace"), file.name)
    if not matches_model(from_gguf(path), plan):
        raise QwenctlError(
            f"{file.name} is a plan for {plan.model}, and {path.name} is another model",
            f"qwenctl plan {shlex.quote(str(path))} --json > {shlex.quote(str(file))}",
            ExitCode.BAD_DATA,
        )
    return plan


def detect_machine(path: Path, wishes: PlacementConstraints, tell: Tell = warn) -> Machine | None:
    """The machine to plan for; None where there is nothing to plan. Raises QwenctlError."""
    from qwenctl.machine.devices import check_servers
    from qwenctl.machine.llama_build import has_gpu_build

    validate_constraints(wishes)
    if not (has_gpu_build() or wishes.constrains_devices or _is_too_large(path, wishes)):
        return None
    check_servers(wishes.rpc)
    return read_usable_hardware(wishes, tell)


def default_load_params(wishes: PlacementConstraints) -> LoadParams:
    """How a model is loaded where nothing is planned."""
    return LoadParams(
        wishes.context, wishes.threads, wishes.batch or _BATCH, wishes.micro_batch or _MICRO_BATCH, wishes.gpu_layers,
        wishes.cache_k, wishes.cache_v, wishes.flash, wishes.load_mode, wishes.snapshot_bytes,
        draft=wishes.draft, draft_max=wishes.draft_max, draft_min=wishes.draft_min,
        adapts_threads=not wishes.threads,
    )  # fmt: skip


def _open_plainly(
    path: Path, settings: LoadParams, start: Callable[[], InferenceEngine], follow: Follow
) -> LoadedEngine:
    engine = start()
    try:
        return LoadedEngine(engine, follow(engine.load(path, settings)))
    except BaseException:
        engine.close()
        raise


def _is_too_large(path: Path, wishes: PlacementConstraints) -> bool:
    """Whether the files take more than the RAM, or with a long context more than is free; then a plan says so."""
    from qwenctl.machine import read_memory
    from qwenctl.models.context_memory import USUAL_TOKENS, of_file
    from qwenctl.models.gguf_check import split_files

    memory = read_memory()
    n_bytes = sum(file.stat().st_size for file in split_files(path) if file.exists())
    if wishes.context > USUAL_TOKENS and (context := of_file(path)) is not None:
        tokens = wishes.context * context.bytes_a_token(wishes.cache_k, wishes.cache_v)
        return n_bytes + tokens > memory.available_bytes
    return n_bytes > memory.total_bytes


def _wishes_of(plan: Plan) -> PlacementConstraints:
    """What a plan from a file had fixed as far as it can be told, for a smaller one that takes its place."""
    settings = plan.settings
    return PlacementConstraints(
        context=settings.context_tokens, cache_k=settings.cache_type_k, cache_v=settings.cache_type_v,
        flash=settings.flash_attention, threads=settings.threads, batch=settings.batch_tokens,
        micro_batch=settings.micro_batch_tokens, snapshot_bytes=settings.snapshot_bytes, rpc=settings.placement.rpc,
    )  # fmt: skip


@contextmanager
def open_engine(path: Path, settings: LoadParams, follow: Follow) -> Iterator[tuple[Engine, ModelInfo]]:
    """The engine and what it loaded; `follow` shows the progress. Raises QwenctlError."""
    with Engine.start(log_folder(), require_backend(tell=warn)) as engine:
        yield engine, follow(engine.load(path, settings))
