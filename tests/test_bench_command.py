"""`qwenctl bench`: llama-bench's table and names, what is measured, energy and its price, pictures."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.bench.cases import BenchCase, Result, all_cases, expert_layers, parse_counts, sweep_points
from qwenctl.bench.energy import constant_power_meter, find_meter, price_of_million
from qwenctl.charts.line_chart import Chart, Curve, Point, svg, ticks
from qwenctl.engine.client import Engine
from qwenctl.errors import QwenctlError
from qwenctl.machine.profile import Machine
from qwenctl.placement.forecast import Forecast
from qwenctl.placement.plan import MemoryPart, MemoryPlan, Plan
from qwenctl.protocol.load import LoadParams, ModelInfo
from tests.command_line import output, run

SVG = "{http://www.w3.org/2000/svg}"


# ------------------------------------------------------------------ what is measured


def test_cases_come_in_llama_benchs_order_with_its_names() -> None:
    names = [case.name for case in all_cases((512, 1024), (128,), (0, 4096))]
    assert names == ["pp512", "pp1024", "tg128", "pp512 @ d4096", "pp1024 @ d4096", "tg128 @ d4096"]
    assert [case.name for case in all_cases((0,), (16, 16), (0,))] == ["tg16"]


@pytest.mark.parametrize(
    ("text", "counts"),
    [("512", (512,)), ("1, 2,2", (1, 2)), ("0-8192+4096", (0, 4096, 8192)), ("128-1024*2", (128, 256, 512, 1024)),
     ("3-5", (3, 4, 5)), ("5-5", (5,))],
)  # fmt: skip
def test_lists_and_ranges_are_llama_benchs(text: str, counts: tuple[int, ...]) -> None:
    assert parse_counts(text) == counts


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "5-3", "1-9+0", "0-9*2", "2-9*1", "1,,2", "99999999", "0-9999999", "1.5"]
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no number|end|much"):
        parse_counts(text)


@given(st.text(alphabet="0123456789-+*, ", max_size=20))
def test_a_list_never_takes_long_to_read(text: str) -> None:
    with suppress(ValueError):
        assert len(parse_counts(text)) < 10_000


def test_the_mean_is_of_speeds_and_the_deviation_that_of_a_sample() -> None:
    result = Result(BenchCase(100, 0, 0), (1.0, 2.0, 4.0))
    assert result.speeds == (100, 50, 25)
    assert result.mean == pytest.approx(58.333, abs=0.001)
    assert result.deviation == pytest.approx(38.188, abs=0.001)  # by n - 1
    assert Result(BenchCase(100, 0, 0), (1.0,)).deviation == 0


@pytest.fixture(scope="module")
def engine(toy_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine.start(tmp_path_factory.mktemp("log")) as engine:
        (*_, last) = engine.load(toy_gguf, LoadParams(threads=1, context_tokens=512, batch_tokens=64))
        assert isinstance(last, ModelInfo)
        yield engine


def test_an_engine_holds_what_was_measured_and_nothing_more(engine: Engine) -> None:
    for _ in range(2):
        assert engine.measure(prompt=40, depth=100) > 0
        assert engine.stats().context_used == 140
        assert engine.stats().snapshots == 1
        assert engine.measure(generate=3, depth=100) > 0
        assert engine.stats().context_used == 103
    assert engine.measure(generate=3) > 0
    assert engine.stats().context_used == 3


def test_a_depth_is_read_once_and_not_counted(engine: Engine) -> None:
    deep, without = engine.measure(generate=1, depth=480), engine.measure(prompt=480)
    again = min(engine.measure(generate=1, depth=480) for _ in range(3))
    assert min(deep, again) < without  # a token costs less than 480


def test_more_than_the_context_holds_is_refused(engine: Engine) -> None:
    with pytest.raises(QwenctlError) as refused:
        engine.measure(prompt=500, depth=100)
    assert (refused.value.message, refused.value.code) == ("600 tokens, context is 512", 65)


# ------------------------------------------------------------------ energy


def test_joules_are_those_of_the_processors_packages(tmp_path: Path) -> None:
    for zone, used in (("intel-rapl:0", 5_000_000), ("intel-rapl:0:0", 4_000_000), ("intel-rapl:1", 900)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{used}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("6000000\n")
    meter = find_meter(tmp_path)
    assert meter
    assert meter.name.startswith("RAPL")
    before = meter.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000\n")  # it began again at 6 J
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("500900\n")
    assert meter.since({name: before[name] for name in ("intel-rapl:0", "intel-rapl:1")}) == pytest.approx(2.5)


def test_the_price_is_that_of_the_energy() -> None:
    assert price_of_million(3.6, 0.3) == pytest.approx(0.3)  # 3.6 J a token are 1 kWh a million
    meter = constant_power_meter(100)
    assert meter.since({"watts": meter.read()["watts"] - 250}) == pytest.approx(250, abs=5)
    assert Result(BenchCase(0, 10, 0), (1.0, 1.0), (20.0, 40.0)).joules_a_token == 3.0


# ------------------------------------------------------------------ pictures


@given(st.floats(min_value=0, max_value=1e9))
def test_ticks_are_few_and_reach_the_highest(highest: float) -> None:
    found = ticks(highest)
    assert found[0] == 0
    assert found[-1] >= highest * (1 - 1e-9)
    assert 2 <= len(found) <= 11


def test_what_is_counted_has_no_halves() -> None:
    assert ticks(2, least_step=1) == [0, 1, 2]
    assert ticks(40, least_step=1) == [0, 10, 20, 30, 40]


def test_a_picture_holds_every_point_and_no_markup_of_its_texts() -> None:
    chart = Chart("<b>&", "x", "y", (Curve("tg", (Point(0, 10, 1), Point(4096, 5, 20))), Curve("empty", ())))
    root = ElementTree.fromstring(svg([chart, chart]))  # noqa: S314 - it is our own
    assert len(root.findall(f".//{SVG}circle")) == 4
    assert "<b>&" in {text.text for text in root.iter(f"{SVG}text")}
    places = [float(mark.attrib["cy"]) for mark in root.iter(f"{SVG}circle")]
    assert places[0] < places[1]  # faster is higher


def plan(ram: str, gpu: str) -> Plan:
    memories = [MemoryPlan(name, 1, 1, (MemoryPart("routed experts", 1, layers),) if layers else ())
                for name, layers in (("CPU", ram), ("CUDA0", gpu))]  # fmt: skip
    return Plan("m", Machine(1, 1), LoadParams(), tuple(memories), Forecast(1, 1, 1, 1, "CPU", "CPU"), ())


def test_a_sweep_goes_from_no_experts_on_gpus_to_as_many_as_have_room() -> None:
    mixed = plan("0-27, 30", "28-39")
    assert expert_layers(mixed.memories[1]) == set(range(28, 40))
    assert sweep_points(mixed, 5) == [(0, 40), (3, 37), (6, 34), (8, 32), (11, 29)]
    assert sweep_points(plan("0-3", ""), 5) == []
    assert sweep_points(plan("", "0-1"), 5) == [(0, 2), (1, 1), (2, 0)]


# ------------------------------------------------------------------ the command

QUICK = ["-t", "1", "-r", "2", "-p", "8", "-n", "4"]


def test_the_table_is_llama_benchs(toy_gguf: Path) -> None:
    done = run("bench", str(toy_gguf), *QUICK, "-r", "1", "-d", "0,16", "--watts", "100", "--price", "0.3")
    head, rule, *rows = done.stdout.decode().split("\n\nbuild: llama-cpp-python")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]
    names = ["model", "size", "params", "backend", "threads", "test", "t/s", "J/t", "price/1M"]
    assert (done.returncode, cells[0]) == (0, names)
    assert re.fullmatch(r"\|( -+[-:] \|)+", rule)
    assert {len(row) for row in (head, rule, *rows)} == {len(head)}
    assert cells[1][:5] == ["qwen35moe Q8_0", "11.54 MiB", "11.33 M", "CPU", "1"]
    assert [row[5] for row in cells[1:]] == ["pp8", "tg4", "pp8 @ d16", "tg4 @ d16"]
    assert all(re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", row[6]) for row in cells[1:])
    speed, joules = float(cells[2][6].split()[0]), float(cells[2][7])
    assert joules * speed == pytest.approx(100, rel=0.1)  # watts; figures are rounded


def test_json_has_llama_benchs_names(toy_gguf: Path, tmp_path: Path) -> None:
    picture = tmp_path / "speed.svg"
    done = run("bench", str(toy_gguf), *QUICK, "-d", "0,32", "-ctk", "q8_0", "--json", "--plot", str(picture))
    told = json.loads(done.stdout)
    assert (told["type_k"], told["type_v"], told["n_threads"], told["backends"]) == ("q8_0", "f16", 1, "CPU")
    assert [one["test"] for one in told["results"]] == ["pp8", "tg4", "pp8 @ d32", "tg4 @ d32"]
    for one in told["results"]:
        assert len(one["samples_ns"]) == 2
        assert min(one["samples_ts"]) <= one["avg_ts"] <= max(one["samples_ts"])
    root = ElementTree.fromstring(picture.read_text())  # noqa: S314 - it is our own
    assert len(root.findall(f".//{SVG}circle")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["speed.svg"]


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["-p", "0", "-n", "0"], "nothing to measure: -p 0 and -n 0", 2),
        (["-n", "x"], "invalid value for '-n' / '--n-gen': 'x' is neither a number nor a range such as 0-8192+2048", 2),
        (["--plot", "a.jpg"], "a.jpg is neither .svg nor .png", 2),
        (["--plot", "/no/such/a.svg"], "no such folder: /no/such", 73),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    options: list[str], message: str, code: int, toy_gguf: Path
) -> None:
    found = output("bench", str(toy_gguf), *options)
    assert found[0].startswith(message)
    assert found[2] == code
