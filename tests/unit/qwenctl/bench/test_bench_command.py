"""`qwenctl bench`: llama-bench's case names and counts, measurements, energy and its price, and charts."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.bench.cases import BenchCase, BenchResult, expert_layers, make_cases, parse_counts, sweep_points
from qwenctl.bench.energy import constant_power_meter, find_meter, price_of_million
from qwenctl.charts.line_chart import Chart, Curve, Point, axis_ticks, render_charts
from qwenctl.machine.profile import Machine
from qwenctl.placement.forecast import Forecast
from qwenctl.placement.plan import MemoryPart, MemoryPlan, Plan
from qwenctl.protocol.load import LoadParams

SVG = "{http://www.w3.org/2000/svg}"


# ------------------------------------------------------------------ cases and results


def test_bench_cases_follow_order_and_names_of_llama_bench() -> None:
    names = [case.name for case in make_cases((512, 1024), (128,), (0, 4096))]
    assert names == ["pp512", "pp1024", "tg128", "pp512 @ d4096", "pp1024 @ d4096", "tg128 @ d4096"]
    assert [case.name for case in make_cases((0,), (16, 16), (0,))] == ["tg16"]


@pytest.mark.parametrize(
    ("text", "counts"),
    [("512", (512,)), ("1, 2,2", (1, 2)), ("0-8192+4096", (0, 4096, 8192)), ("128-1024*2", (128, 256, 512, 1024)),
     ("3-5", (3, 4, 5)), ("5-5", (5,))],
)  # fmt: skip
def test_counts_are_parsed_from_llama_bench_lists_and_ranges(text: str, counts: tuple[int, ...]) -> None:
    assert parse_counts(text) == counts


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "5-3", "1-9+0", "0-9*2", "2-9*1", "1,,2", "99999999", "0-9999999", "1.5"]
)
def test_invalid_counts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither a number|is not a valid range|too large"):
        parse_counts(text)


@given(st.text(alphabet="0123456789-+*, ", max_size=20))
def test_random_counts_text_gives_few_counts_or_error(text: str) -> None:
    with suppress(ValueError):
        assert len(parse_counts(text)) < 10_000


def test_result_has_mean_of_speeds_and_sample_deviation() -> None:
    result = BenchResult(BenchCase(100, 0, 0), (1.0, 2.0, 4.0))
    assert result.speeds == (100, 50, 25)
    assert result.mean == pytest.approx(58.333, abs=0.001)
    assert result.deviation == pytest.approx(38.188, abs=0.001)  # divided by n - 1
    assert BenchResult(BenchCase(100, 0, 0), (1.0,)).deviation == 0


# ------------------------------------------------------------------ energy


def test_rapl_meter_sums_joules_of_cpu_packages(tmp_path: Path) -> None:
    for zone, used in (("intel-rapl:0", 5_000_000), ("intel-rapl:0:0", 4_000_000), ("intel-rapl:1", 900)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{used}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("6000000\n")
    meter = find_meter(tmp_path)
    assert meter
    assert meter.name.startswith("RAPL")
    before = meter.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000\n")  # the counter wrapped around at 6 J
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("500900\n")
    assert meter.joules_since({name: before[name] for name in ("intel-rapl:0", "intel-rapl:1")}) == pytest.approx(2.5)


def test_price_of_million_tokens_follows_energy() -> None:
    assert price_of_million(3.6, 0.3) == pytest.approx(0.3)  # 3.6 J per token is 1 kWh per million tokens
    meter = constant_power_meter(100)
    assert meter.joules_since({"watts": meter.read()["watts"] - 250}) == pytest.approx(250, abs=5)
    assert BenchResult(BenchCase(0, 10, 0), (1.0, 1.0), (20.0, 40.0)).joules_per_token == 3.0


# ------------------------------------------------------------------ charts


@given(st.floats(min_value=0, max_value=1e9))
def test_chart_ticks_are_few_and_reach_highest_value(highest: float) -> None:
    found = axis_ticks(highest)
    assert found[0] == 0
    assert found[-1] >= highest * (1 - 1e-9)
    assert 2 <= len(found) <= 11


def test_chart_ticks_of_counts_are_whole_numbers() -> None:
    assert axis_ticks(2, min_step=1) == [0, 1, 2]
    assert axis_ticks(40, min_step=1) == [0, 10, 20, 30, 40]


def test_chart_has_every_point_and_escapes_its_labels() -> None:
    chart = Chart("<b>&", "x", "y", (Curve("tg", (Point(0, 10, 1), Point(4096, 5, 20))), Curve("empty", ())))
    root = ElementTree.fromstring(render_charts([chart, chart]))  # noqa: S314 - it is our own
    assert len(root.findall(f".//{SVG}circle")) == 4
    assert "<b>&" in {text.text for text in root.iter(f"{SVG}text")}
    places = [float(mark.attrib["cy"]) for mark in root.iter(f"{SVG}circle")]
    assert places[0] < places[1]  # faster is higher


def plan(ram: str, gpu: str) -> Plan:
    memories = [MemoryPlan(name, 1, 1, (MemoryPart("routed experts", 1, layers),) if layers else ())
                for name, layers in (("CPU", ram), ("CUDA0", gpu))]  # fmt: skip
    return Plan("m", Machine(1, 1), LoadParams(), tuple(memories), Forecast(1, 1, 1, 1, "CPU", "CPU"), ())


def test_expert_sweep_goes_from_no_experts_on_gpu_to_full_gpu() -> None:
    mixed = plan("0-27, 30", "28-39")
    assert expert_layers(mixed.memories[1]) == set(range(28, 40))
    assert sweep_points(mixed, 5) == [(0, 40), (3, 37), (6, 34), (8, 32), (11, 29)]
    assert sweep_points(plan("0-3", ""), 5) == []
    assert sweep_points(plan("", "0-1"), 5) == [(0, 2), (1, 1), (2, 0)]
