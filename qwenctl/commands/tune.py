"""`qwenctl tune`: measures variations of a plan, and saves the fastest for later loads of that model."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenctl.commands.options import common as options
from qwenctl.commands.options import hub as hub_options
from qwenctl.commands.options.given import given_options, refuse_beside
from qwenctl.commands.options.load_options import with_load_options
from qwenctl.commands.options.shell_completion import complete_models
from qwenctl.commands.quantize.result import print_json, print_status
from qwenctl.errors import QwenctlError, command_line
from qwenctl.placement.constraints import LoadRequest
from qwenctl.terminal.streams import StatusLine, text_writer

if TYPE_CHECKING:
    from qwenctl.placement.constraints import PlacementConstraints
    from qwenctl.placement.plan import Plan
    from qwenctl.protocol.load import LoadParams
    from qwenctl.tune.candidates import TuningBaseline
    from qwenctl.tune.search import Tuning

# A turn is measured up to 3 times, until 4 s have passed; the fastest counts.
_REPEATS, _LONG_S = 3, 4.0
_OFFLOADED_PROMPT = 2048  # prompt tokens; long enough that llama.cpp copies experts to a GPU to compute them there

Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", autocompletion=complete_models, help="A GGUF file, or a local model."),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit", metavar="TIME", parser=hub_options.parse_seconds, help="Time limit, such as 90s or 10m."
    ),
]
Prompt = Annotated[
    int,
    typer.Option(
        "-p", "--n-prompt", min=0, max=1 << 20, metavar="N", help="Prompt tokens per turn; 0: a typical number."
    ),
]
Generate = Annotated[
    int, typer.Option("-n", "--n-gen", min=1, max=1 << 20, metavar="N", help="Generated tokens per turn.")
]
Kv = Annotated[bool, typer.Option("--kv", help="Also try a q8_0 KV cache, which is smaller and less precise.")]
Forget = Annotated[bool, typer.Option("--forget", help="Remove the saved settings of this model.")]


@with_load_options
def tune_command(
    context: typer.Context,
    model: Model,
    time_limit: TimeLimit = "10m",  # type: ignore[assignment] # typer parses it
    n_prompt: Prompt = 0,
    n_gen: Generate = 128,
    kv: Kv = False,
    forget: Forget = False,
    load: LoadRequest = LoadRequest(),  # noqa: B008 - frozen
    json: options.Json = False,
) -> None:
    """Find the fastest settings for a model on this machine.

    Threads, micro-batch size and experts on GPUs are varied, and a turn of -p prompt tokens and -n generated tokens is
    measured each time. Settings that beat the plan by more than noise are saved for this machine and model, and used
    from then on unless an option says otherwise.
    """
    from qwenctl.loading.model_files import resolve_model
    from qwenctl.tune import store
    from qwenctl.tune.candidates import candidate_groups
    from qwenctl.tune.search import search

    if forget:
        refuse_beside(context, "--forget", given_options(context).keys() - {"forget"})
    path = resolve_model(model)
    if forget:
        print_status(
            f"removed the saved settings of {path.name}"
            if store.delete_tuning(path)
            else f"no saved settings for {path.name}",
            quiet=False,
        )
        return
    if load.plan is not None:
        raise QwenctlError("--plan leaves nothing to tune", command_line("tune", path))
    # A chat drafts with the MTP block: its memory is not available for experts.
    load = replace(load, constraints=replace(load.constraints, mtp=True))
    baseline = _baseline(path, load, n_prompt, tries_cache=kv)
    status = StatusLine(sys.stderr)

    def measure(constraints: PlacementConstraints) -> float:
        return _measure_turn(
            path, _load_params(path, replace(load, constraints=constraints))[0], baseline.prompt_tokens, n_gen
        )

    try:
        tuning = search(load.constraints, candidate_groups(baseline), measure, time_limit, status.show)
    finally:
        status.clear()
    place = _save_result(path, load, tuning)
    _show_result(tuning, place, baseline.prompt_tokens, n_gen, as_json=json)


def _load_params(path: Path, load: LoadRequest) -> tuple[LoadParams, Plan | None]:
    """How a chat would load the model without saved tuning results."""
    from qwenctl.loading.open_model import resolve
    from qwenctl.machine.cpu import usable_cores

    resolved = resolve(path, load, tuned=False)
    plan, settings = resolved.plan, resolved.params
    return replace(settings, threads=settings.threads or usable_cores(), adapts_threads=False), plan


def _baseline(path: Path, load: LoadRequest, prompt: int, *, tries_cache: bool) -> TuningBaseline:
    from qwenctl.bench.cases import expert_layers
    from qwenctl.machine.cpu import usable_cores
    from qwenctl.protocol.placement import CPU
    from qwenctl.tune.candidates import TuningBaseline

    settings, plan = _load_params(path, load)
    memories = plan.memories if plan is not None else ()
    layers = [expert_layers(memory) for memory in memories]
    in_ram = set().union(*(found for found, memory in zip(layers, memories, strict=True) if memory.name == CPU))
    every = set().union(*layers)
    has_devices = plan is not None and bool(plan.machine.devices) and bool(every)
    usual = _OFFLOADED_PROMPT if has_devices and in_ram else 512
    return TuningBaseline(
        load.constraints, settings, usable_cores(), prompt or usual, len(in_ram) if has_devices else None, len(every),
        tries_cache,
    )  # fmt: skip


def _measure_turn(path: Path, settings: LoadParams, prompt: int, generate: int) -> float:
    """The seconds of a turn in a new engine, after a short warm-up."""
    from qwenctl.loading.open_model import open_engine
    from qwenctl.views.loading import follow_loading

    with open_engine(path, settings, lambda events: follow_loading(events, StatusLine(None))) as (engine, _):
        engine.measure(prompt=min(prompt, 32), generate=1)
        seconds: list[float] = []
        while len(seconds) < _REPEATS and sum(seconds) < _LONG_S:
            seconds.append(engine.measure(prompt=prompt, generate=generate))
        return min(seconds)


def _save_result(path: Path, load: LoadRequest, tuning: Tuning) -> Path | None:
    """Save the result, and return its file; if the plan is the fastest, forget earlier results and return None."""
    from datetime import UTC, datetime

    from qwenctl.tune import store

    if not tuning.changes:
        store.delete_tuning(path)
        return None
    measured = datetime.now(UTC).isoformat(timespec="seconds")
    return store.save_tuning(
        path,
        store.TuningResult(tuning.changes, tuning.verdict.gain, store.fixed_constraints(load.constraints), measured),
    )


def _show_result(tuning: Tuning, place: Path | None, prompt: int, generate: int, *, as_json: bool) -> None:
    if as_json:
        fields = {**asdict(tuning), "n_prompt": prompt, "n_gen": generate, "kept_in": str(place or "") or None}
        print_json(fields)
        return
    write = text_writer(sys.stdout)
    write(f"a turn of {prompt:,} prompt tokens and {generate:,} generated tokens\n")
    for trial in tuning.trials:
        write(f"{trial.name:<32}" + (f"{trial.seconds:>9.3f} s" if trial.seconds is not None else trial.why_not) + "\n")
    write(_conclusion(tuning) + "\n")


def _conclusion(tuning: Tuning) -> str:
    more = "" if tuning.is_complete else "; not everything was tried: raise --time-limit"
    gain, rounds = tuning.verdict.gain, tuning.rounds
    if tuning.changes:
        return (
            f"{', '.join(tuning.names)}: {gain:.2f} times as fast in {rounds} rounds; saved and used from now on{more}"
        )
    if rounds:
        return f"the plan stays: the best candidate was {gain:.2f} times as fast in {rounds} rounds, within noise{more}"
    return f"the plan stays: nothing was faster{more}"
