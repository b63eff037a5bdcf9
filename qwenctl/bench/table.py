"""Format results as llama-bench's table, and as JSON with its field names.

A `BenchSetup` (what was measured, and how) and results come in; text goes out. Users compare these tables with
llama-bench's, so columns, widths and order are the same (`markdown_printer` in its source); energy adds two columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qwenctl.bench.cases import BenchResult
from qwenctl.bench.energy import price_of_million
from qwenctl.protocol.load import LoadParams, ModelInfo

_MIB, _GIB = 1 << 20, 1 << 30
_DEFAULTS = LoadParams()


@dataclass(frozen=True)
class BenchSetup:
    """What was measured: a model, how it was loaded, and its backends ("CPU", "CUDA,RPC").

    `cpu_experts` is the number of layers with experts in RAM, if the user gave one; `price` is per kWh.
    """

    loaded: ModelInfo
    settings: LoadParams
    backend: str
    cpu_experts: int | None = None
    price: float | None = None
    meter: str = ""


@dataclass(frozen=True)
class _Column:
    """A column of the table; as in printf, a negative `width` aligns to the left, which is used for text."""

    name: str
    width: int
    text: str


def format_header(setup: BenchSetup) -> str:
    """Format the two header lines of the table."""
    columns = [*_setup_columns(setup), *_result_columns(setup, None)]
    names = " | ".join(_pad(column.name, column.width) for column in columns)
    rules = " | ".join("-" * (abs(column.width) - 1) + ("-" if column.width < 0 else ":") for column in columns)
    return f"| {names} |\n| {rules} |\n"


def format_row(setup: BenchSetup, result: BenchResult) -> str:
    """Format the line of a result."""
    columns = [*_setup_columns(setup), *_result_columns(setup, result)]
    return f"| {' | '.join(_pad(column.text, column.width) for column in columns)} |\n"


def to_json(setup: BenchSetup, results: Sequence[BenchResult]) -> dict[str, Any]:
    """Return setup and results with llama-bench's field names; speeds are in tokens/s."""
    settings, loaded = asdict(setup.settings), setup.loaded
    return {
        "backends": setup.backend, "model_type": loaded.description, "model_size": loaded.size_bytes,
        "model_n_params": loaded.parameters, "n_threads": setup.settings.threads, "n_cpu_moe": setup.cpu_experts,
        "n_batch": settings["batch_tokens"], "n_ubatch": settings["micro_batch_tokens"],
        "type_k": settings["cache_type_k"], "type_v": settings["cache_type_v"], "meter": setup.meter or None,
        "memory": [asdict(use) for use in loaded.memory], "placement": settings["placement"],
        "results": [_result_fields(setup, result) for result in results],
    }  # fmt: skip


def _result_fields(setup: BenchSetup, result: BenchResult) -> dict[str, Any]:
    case, joules = result.case, result.joules_per_token
    cost = price_of_million(joules, setup.price) if joules is not None and setup.price is not None else None
    return {
        "test": case.name, "n_prompt": case.prompt, "n_gen": case.generate, "n_depth": case.depth,
        "avg_ts": result.mean, "stddev_ts": result.deviation, "samples_ts": list(result.speeds),
        "samples_ns": [round(seconds * 1e9) for seconds in result.seconds],
        "joules_per_token": joules, "cost_per_million_tokens": cost,
    }  # fmt: skip


def _setup_columns(setup: BenchSetup) -> Iterator[_Column]:
    """Yield the columns of the setup; like llama-bench, parameters with default values are left out."""
    loaded, settings = setup.loaded, setup.settings
    yield _Column("model", -30, loaded.description)
    size = loaded.size_bytes
    yield _Column("size", 10, f"{size / _MIB:.2f} MiB" if size < _GIB else f"{size / _GIB:.2f} GiB")
    count = loaded.parameters
    yield _Column("params", 10, f"{count / 1e6:.2f} M" if count < 1e9 else f"{count / 1e9:.2f} B")
    yield _Column("backend", -10, setup.backend)
    if setup.backend != "CPU":
        yield _Column("ngl", 3, str(settings.gpu_layers))
    if setup.cpu_experts is not None:
        yield _Column("n_cpu_moe", 10, str(setup.cpu_experts))
    yield _Column("threads", 7, str(settings.threads))
    others = (
        ("n_batch", 7, "batch_tokens"), ("n_ubatch", 8, "micro_batch_tokens"), ("type_k", 6, "cache_type_k"),
        ("type_v", 6, "cache_type_v"), ("fa", 3, "flash_attention"), ("lm", 10, "load_mode"),
    )  # fmt: skip
    for name, width, field in others:
        value = getattr(settings, field)
        if value != getattr(_DEFAULTS, field):
            yield _Column(name, width, str(value))


def _result_columns(setup: BenchSetup, result: BenchResult | None) -> Iterator[_Column]:
    """Yield the columns of a result; with None, their texts are empty, for the header."""
    yield _Column("test", 15, result.case.name if result else "")
    yield _Column("t/s", 20, f"{result.mean:.2f} ± {result.deviation:.2f}" if result else "")
    if setup.meter:
        joules = result.joules_per_token if result else None
        yield _Column("J/t", 10, f"{joules:.3f}" if joules is not None else "")
        if setup.price is not None:
            cost = price_of_million(joules, setup.price) if joules is not None else None
            yield _Column("price/1M", 10, f"{cost:.3f}" if cost is not None else "")


def _pad(text: str, width: int) -> str:
    return text.ljust(-width) if width < 0 else text.rjust(width)
