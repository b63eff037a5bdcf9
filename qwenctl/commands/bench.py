"""`qwenctl bench`: measures how fast a model is on this machine, and prints llama-bench's table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenctl.commands.options import common as options
from qwenctl.commands.options.load_options import with_load_options
from qwenctl.commands.options.shell_completion import complete_models
from qwenctl.commands.quantize.result import print_json
from qwenctl.errors import QwenctlError
from qwenctl.placement.constraints import LoadRequest
from qwenctl.terminal.streams import StatusLine, text_writer

if TYPE_CHECKING:
    from qwenctl.bench.cases import BenchCase, BenchResult
    from qwenctl.bench.energy import EnergyMeter
    from qwenctl.bench.table import BenchSetup
    from qwenctl.protocol.load import LoadParams

_SWEPT = 5  # points of the chart over expert layers


def _counts(text: str) -> tuple[int, ...]:
    from qwenctl.bench.cases import parse_counts

    return parse_counts(text)


def _list(meaning: str, *names: str) -> Any:
    return typer.Option(*names, parser=options.with_usage_error(_counts), metavar="N,...", help=meaning)


Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", autocompletion=complete_models, help="A GGUF file, or a local model."),
]
Prompts = Annotated[Any, _list("Prompt tokens: a list, or a range such as 128-1024*2.", "-p", "--n-prompt")]
Generates = Annotated[Any, _list("Generated tokens.", "-n", "--n-gen")]
Depths = Annotated[Any, _list("Tokens in the context before the test.", "-d", "--depths", "--n-depth")]
Repetitions = Annotated[int, typer.Option("-r", "--repetitions", min=1, max=1000, metavar="N", help="Runs per test.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the speeds to an SVG or PNG file.")]
Price = Annotated[
    float | None, typer.Option("--price", min=0, metavar="N", help="Price per kWh, to show what a million tokens cost.")
]
Watts = Annotated[
    float | None,
    typer.Option("--watts", min=0, metavar="N", help="Power draw in watts, where it cannot be read from the hardware."),
]


@with_load_options
def bench_command(
    model: Model,
    n_prompt: Prompts = "512",
    n_gen: Generates = "128",
    depths: Depths = "0",
    repetitions: Repetitions = 5,
    plot: Plot = None,
    price: Price = None,
    watts: Watts = None,
    load: LoadRequest = LoadRequest(),  # noqa: B008 - frozen
    json: options.Json = False,
) -> None:
    """Measure how fast a model is, in llama-bench's table.

    Prompt processing (pp) and generation (tg) are measured, also at several context depths. Joules per token are shown
    where the machine reports its power draw (RAPL, NVML) or --watts does. --plot draws speed over context length, and
    with GPUs, over the number of layers whose experts are on them.
    """
    from qwenctl.bench.cases import make_cases
    from qwenctl.charts.bench import depth_charts, expert_chart
    from qwenctl.charts.chart_file import check_chart_place, check_image_name, to_png, write_chart
    from qwenctl.charts.line_chart import render_charts
    from qwenctl.loading.model_files import resolve_model

    if plot is not None:
        check_image_name(plot)
        check_chart_place(plot)
    cases = tuple(make_cases(n_prompt, n_gen, depths))
    if not cases:
        raise QwenctlError("nothing to measure: -p 0 and -n 0", "qwenctl bench MODEL -p 512 -n 128")
    path, meter = resolve_model(model), _meter(price, watts)
    with _measure_cases(path, load, cases, repetitions, meter, price) as (setup, found):
        results = _show_results(setup, found, as_json=json)
    if plot is not None:
        charts = depth_charts(setup.loaded.description, results)
        swept = list(_sweep_experts(path, load, cases, repetitions))
        charts += [expert_chart(setup.loaded.description, swept)] if swept else []
        svg = render_charts(charts)
        write_chart(plot, to_png(svg) if plot.suffix.lower() == ".png" else svg.encode())


def _meter(price: float | None, watts: float | None) -> EnergyMeter | None:
    from qwenctl.bench.energy import constant_power_meter, find_meter

    meter = constant_power_meter(watts) if watts is not None else find_meter()
    if price is not None and meter is None:
        raise QwenctlError(
            "--price needs a power reading, and this machine has none", "--watts 350, as measured at the plug"
        )
    return meter


@contextmanager
def _measure_cases(
    path: Path,
    load: LoadRequest,
    cases: Sequence[BenchCase],
    repetitions: int,
    meter: EnergyMeter | None,
    price: float | None,
) -> Iterator[tuple[BenchSetup, Iterator[BenchResult]]]:
    """Inside, the setup, and an iterator that measures each case and yields its results."""
    from qwenctl.bench.cases import run_cases
    from qwenctl.bench.table import BenchSetup
    from qwenctl.loading.open_model import open_engine
    from qwenctl.views.loading import follow_loading

    status, settings = StatusLine(sys.stderr), _load_params(path, load, cases)
    with open_engine(path, settings, lambda events: follow_loading(events, status)) as (engine, loaded):
        name = meter.name if meter else ""
        setup = BenchSetup(loaded, settings, _backend(settings), load.constraints.cpu_experts, price, name)
        try:
            yield setup, run_cases(engine, cases, repetitions, meter, status.show)
        finally:
            status.clear()


def _show_results(setup: BenchSetup, found: Iterator[BenchResult], *, as_json: bool) -> list[BenchResult]:
    """Print the results as they come."""
    from importlib.metadata import version

    from qwenctl.bench import table

    results: list[BenchResult] = []
    if as_json:
        results += found
        print_json(table.to_json(setup, results))
        return results
    write = text_writer(sys.stdout)
    write(table.format_header(setup))
    for result in found:
        write(table.format_row(setup, result))
        results.append(result)
    write(f"\nbuild: llama-cpp-python {version('llama-cpp-python')}\n")
    return results


def _load_params(path: Path, load: LoadRequest, cases: Sequence[BenchCase]) -> LoadParams:
    """How to load the model: as for a chat, with a context that holds every case."""
    from qwenctl.loading.open_model import resolve
    from qwenctl.machine.cpu import usable_cores

    settings = resolve(path, _with_context(load, cases)).params
    return replace(settings, threads=settings.threads or usable_cores())


def _with_context(load: LoadRequest, cases: Sequence[BenchCase]) -> LoadRequest:
    """`load` with a context that holds every case, unless it has a context size."""
    if load.plan is not None:
        return load
    needed = max(case.depth + case.tokens for case in cases)
    return replace(load, constraints=replace(load.constraints, context=load.constraints.context or needed))


def _backend(settings: LoadParams) -> str:
    """The names of the backends as llama-bench prints them: CPU only if there is no other."""
    from qwenctl.machine.devices import read_build

    build = read_build()
    names = [name for name in build.backends if name not in ("CPU", "RPC")]
    return ",".join([*names, *(["RPC"] if settings.placement.rpc else [])]) or "CPU"


def _sweep_experts(
    path: Path, load: LoadRequest, cases: Sequence[BenchCase], repetitions: int
) -> Iterator[tuple[int, BenchResult]]:
    """Generation speed by the number of layers with experts on GPUs, from none to as many as fit."""
    from qwenctl.bench.cases import run_cases, sweep_points
    from qwenctl.loading.open_model import open_engine, resolve
    from qwenctl.views.loading import follow_loading

    generates = [case for case in cases if case.generate]
    is_fixed = load.plan is not None or load.constraints.cpu_experts is not None
    plan = resolve(path, _with_context(load, generates[:1]), tuned=False).plan if generates and not is_fixed else None
    status = StatusLine(sys.stderr)
    for layers, on_cpu in sweep_points(plan, _SWEPT) if plan is not None else ():
        fixed = replace(load, constraints=replace(load.constraints, cpu_experts=on_cpu))
        settings = _load_params(path, fixed, generates[:1])
        with open_engine(path, settings, lambda events: follow_loading(events, status)) as (engine, _):
            for result in run_cases(engine, generates[:1], repetitions, None, status.show):
                yield layers, result
        status.clear()
