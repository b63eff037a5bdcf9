"""`qwenctl bench`: its table, its JSON, its chart, and the options it refuses."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.support.cli_runner import outcome, run

SVG = "{http://www.w3.org/2000/svg}"
QUICK = ["-t", "1", "-r", "2", "-p", "8", "-n", "4"]


def test_bench_table_has_llama_bench_columns(toy_gguf: Path) -> None:
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
    assert joules * speed == pytest.approx(100, rel=0.1)  # the watts given; the figures are rounded


def test_bench_json_has_llama_bench_fields(toy_gguf: Path, tmp_path: Path) -> None:
    chart = tmp_path / "speed.svg"
    done = run("bench", str(toy_gguf), *QUICK, "-d", "0,32", "-ctk", "q8_0", "--json", "--plot", str(chart))
    report = json.loads(done.stdout)
    assert (report["type_k"], report["type_v"], report["n_threads"], report["backends"]) == ("q8_0", "f16", 1, "CPU")
    assert [result["test"] for result in report["results"]] == ["pp8", "tg4", "pp8 @ d32", "tg4 @ d32"]
    for result in report["results"]:
        assert len(result["samples_ns"]) == 2
        assert min(result["samples_ts"]) <= result["avg_ts"] <= max(result["samples_ts"])
    root = ElementTree.fromstring(chart.read_text())  # noqa: S314 - written by the program under test
    assert len(root.findall(f".//{SVG}circle")) == 4  # a point for each depth, of pp and of tg
    assert [path.name for path in tmp_path.iterdir()] == ["speed.svg"]


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["-p", "0", "-n", "0"], "nothing to measure: -p 0 and -n 0", 2),
        (["-n", "x"], "invalid value for '-n' / '--n-gen': 'x' is neither a number nor a range such as 0-8192+2048", 2),
        (["--plot", "a.jpg"], "--plot a.jpg: neither .svg nor .png", 2),
        (["--plot", "/no/such/a.svg"], "no such folder: /no/such", 73),
    ],
)
def test_invalid_bench_options_are_refused(options: list[str], message: str, code: int, toy_gguf: Path) -> None:
    error = outcome("bench", str(toy_gguf), *options)
    assert error[0].startswith(message)
    assert error[2] == code
