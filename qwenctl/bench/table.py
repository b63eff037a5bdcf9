"""Results as llama-bench's table, and as JSON with its names.

A `BenchSetup` (what was measured on what) and results come in, text goes out. People paste these tables side by side,
so the columns, their widths and their order are llama-bench's (`markdown_printer` of its source); energy has two more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qwenctl.bench.cases import Result
from qwenctl.bench.energy import price_of_million
from qwenctl.protocol.load import LoadParams, ModelInfo

_MIB, _GIB = 1 << 20, 1 << 30
_USUAL = LoadParams()


@dataclass(frozen=True)
class BenchSetup:
    """What was measured: a model, how it was loaded, and on which backends ("CPU", "CUDA,RPC").

    `cpu_experts` is the number of layers with experts in RAM, where it was given; `price` that of a kWh.
    """

    loaded: ModelInfo
    settings: LoadParams
    backend: str
    cpu_experts: int | None = None
    price: float | None = None
    meter: str = ""


@dataclass(frozen=True)
class _Column:
    """`width` is negative for text, which stands to the left, as in printf."""

    name: str
    width: int
    text: str


def head(setup: BenchSetup) -> str:
    """The two lines above the rows."""
    columns = [*_fixed(setup), *_measured(setup, None)]
    names = " | ".join(_padded(column.name, column.width) for column in columns)
    rules = " | ".join("-" * (abs(column.width) - 1) + ("-" if column.width < 0 else ":") for column in columns)
    return f"| {names} |\n| {rules} |\n"


def row(setup: BenchSetup, result: Result) -> str:
    """The line of a result."""
    columns = [*_fixed(setup), *_measured(setup, result)]
    return f"| {' | '.join(_padded(column.text, column.width) for column in columns)} |\n"


def as_json(setup: BenchSetup, results: Sequence[Result]) -> dict[str, Any]:
    """Everything, with llama-bench's names of fields; speeds are tokens a second."""
    settings, loaded = asdict(setup.settings), setup.loaded
    return {
        "backends": setup.backend, "model_type": loaded.description, "model_size": loaded.size_bytes,
        "model_n_params": loaded.parameters, "n_threads": setup.settings.threads, "n_cpu_moe": setup.cpu_experts,
        "n_batch": settings["batch_tokens"], "n_ubatch": settings["micro_batch_tokens"],
        "type_k": settings["cache_type_k"], "type_v": settings["cache_type_v"], "meter": setup.meter or None,
        "memory": [asdict(use) for use in loaded.memory], "placement": settings["placement"],
        "results": [_fields(setup, result) for result in results],
    }  # fmt: skip


def _fields(setup: BenchSetup, result: Result) -> dict[str, Any]:
    case, joules = result.case, result.joules_a_token
    cost = price_of_million(joules, setup.price) if joules is not None and setup.price is not None else None
    return {
        "test": case.name, "n_prompt": case.prompt, "n_gen": case.generate, "n_depth": case.depth,
        "avg_ts": result.mean, "stddev_ts": result.deviation, "samples_ts": list(result.speeds),
        "samples_ns": [round(seconds * 1e9) for seconds in result.seconds],
        "joules_per_token": joules, "cost_per_million_tokens": cost,
    }  # fmt: skip


def _fixed(setup: BenchSetup) -> Iterator[_Column]:
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
        if value != getattr(_USUAL, field):
            yield _Column(name, width, str(value))


def _measured(setup: BenchSetup, result: Result | None) -> Iterator[_Column]:
    """The columns of a result; their texts are empty without one."""
    yield _Column("test", 15, result.case.name if result else "")
    yield _Column("t/s", 20, f"{result.mean:.2f} ± {result.deviation:.2f}" if result else "")
    if setup.meter:
        joules = result.joules_a_token if result else None
        yield _Column("J/t", 10, f"{joules:.3f}" if joules is not None else "")
        if setup.price is not None:
            cost = price_of_million(joules, setup.price) if joules is not None else None
            yield _Column("price/1M", 10, f"{cost:.3f}" if cost is not None else "")


def _padded(text: str, width: int) -> str:
    return text.ljust(-width) if width < 0 else text.rjust(width)
