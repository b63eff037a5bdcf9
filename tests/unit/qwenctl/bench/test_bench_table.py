"""Results in llama-bench's table and with the names of its JSON, so that both can be laid side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.bench.cases import BenchCase, BenchResult
from qwenctl.bench.energy import price_of_million
from qwenctl.bench.table import BenchSetup, format_header, format_row, to_json
from qwenctl.protocol.load import LoadParams, ModelInfo

MODEL = ModelInfo("toy", "qwen35moe", "qwen35moe 35B.A3B Q4_K_M", 20 << 30, 35_000_000_000, 4096, 262_144)
SETUP = BenchSetup(MODEL, LoadParams(threads=8, gpu_layers=99), "CPU")
ANSWER = BenchResult(BenchCase(0, 100, 0), (1.0, 1.0))


def columns(text: str) -> dict[str, str]:
    """The cells of the last line by their names in the first."""
    names, _, cells = text.splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in (names, cells)]
    return dict(zip(*split, strict=True))


def test_table_on_a_cpu_has_llama_bench_columns_in_its_order() -> None:
    found = columns(format_header(SETUP) + format_row(SETUP, ANSWER))
    assert found == {
        "model": "qwen35moe 35B.A3B Q4_K_M", "size": "20.00 GiB", "params": "35.00 B", "backend": "CPU", "threads": "8",
        "test": "tg100", "t/s": "100.00 ± 0.00",
    }  # fmt: skip
    assert list(found)[-2:] == ["test", "t/s"]


def test_table_on_a_gpu_has_the_number_of_its_layers() -> None:
    gpu = replace(SETUP, backend="CUDA", cpu_experts=12)
    found = columns(format_header(gpu) + format_row(gpu, ANSWER))
    assert (found["ngl"], found["n_cpu_moe"]) == ("99", "12")


def test_table_has_columns_for_settings_that_are_not_usual() -> None:
    other = replace(SETUP, settings=LoadParams(threads=8, batch_tokens=512, cache_type_k="q8_0"))
    found = columns(format_header(other) + format_row(other, ANSWER))
    assert (found["n_batch"], found["type_k"]) == ("512", "q8_0")
    assert "type_v" not in found


def test_small_model_is_shown_in_mib_and_millions() -> None:
    small = replace(SETUP, loaded=replace(MODEL, size_bytes=12 << 20, parameters=12_000_000))
    found = columns(format_header(small) + format_row(small, ANSWER))
    assert (found["size"], found["params"]) == ("12.00 MiB", "12.00 M")


@given(
    backend=st.sampled_from(["CPU", "CUDA,RPC"]),
    meter=st.sampled_from(["", "RAPL"]),
    price=st.sampled_from([None, 0.3]),
)
def test_head_and_rows_have_the_same_width(backend: str, meter: str, price: float | None) -> None:
    setup = replace(SETUP, backend=backend, meter=meter, price=price)
    lines = (format_header(setup) + format_row(setup, ANSWER)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len({line.count("|") for line in lines}) == 1


def test_energy_has_columns_where_there_is_a_meter_and_a_price() -> None:
    measured = replace(SETUP, meter="RAPL", price=0.3)
    found = columns(format_header(measured) + format_row(measured, replace(ANSWER, joules=(200.0, 400.0))))
    assert (found["J/t"], found["price/1M"]) == ("3.000", f"{price_of_million(3.0, 0.3):.3f}")
    without = columns(format_header(measured) + format_row(measured, ANSWER))
    assert (without["J/t"], without["price/1M"]) == ("", "")


def test_json_has_llama_bench_names_and_each_sample() -> None:
    fields = to_json(SETUP, [replace(ANSWER, seconds=(1.0, 0.5))])
    assert (fields["model_size"], fields["n_threads"], fields["meter"]) == (20 << 30, 8, None)
    [one] = fields["results"]
    assert (one["test"], one["n_gen"], one["samples_ts"]) == ("tg100", 100, [100.0, 200.0])
    assert one["samples_ns"] == [1_000_000_000, 500_000_000]
    assert one["avg_ts"] == pytest.approx(150.0)
    assert one["joules_per_token"] is None
