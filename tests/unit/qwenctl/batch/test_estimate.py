"""The estimate of a batch: all records are counted, a few are answered, tokens and seconds are scaled from those."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenctl.batch.backends.backend import BackendStats
from qwenctl.batch.estimate import BatchEstimate, estimate
from qwenctl.batch.records import GenerationParams
from qwenctl.batch.specs import InputSpec, OutputSpec
from qwenctl.errors import QwenctlError
from tests.support.echo_backend import EchoBackend, EchoSpec

# A prompt takes a tenth of a second and an answer one second, as the echo's ten and two tokens are counted.
MEASURED = BackendStats(prompt_tokens=100, answer_tokens=20, prompt_s=1.0, answer_s=10.0, parallel=3)


def write_input(path: Path, count: int, *, bad: int = 0) -> Path:
    good = [json.dumps({"id": f"r{number}", "prompt": "four"}) for number in range(count)]
    path.write_text("\n".join([*good, *["{"] * bad]) + "\n")
    return path


def estimated(source: Path, spec: EchoSpec, warnings: list[str] | None = None) -> BatchEstimate:
    heard = [] if warnings is None else warnings
    return estimate(
        input=InputSpec(source),
        output=OutputSpec(source.with_name("out.jsonl")),
        backend=spec,
        params=GenerationParams(),
        on_warning=heard.append,
    )


def test_estimate_scales_tokens_and_seconds_to_all_records(tmp_path: Path) -> None:
    spec = EchoSpec(EchoBackend(MEASURED))
    found = estimated(write_input(tmp_path / "in.jsonl", 100), spec)
    assert found == BatchEstimate(100, 0, 8, prompt_tokens=1000, answer_tokens=200, parallel=3, seconds=110.0)
    assert spec.backend.is_closed


@pytest.mark.parametrize(("count", "tried"), [(1, 1), (8, 8), (9, 8), (1000, 8)])
def test_estimate_tries_a_few_records_spread_over_the_input(count: int, tried: int, tmp_path: Path) -> None:
    spec = EchoSpec()
    assert estimated(write_input(tmp_path / "in.jsonl", count), spec).tried == tried
    numbers = [int(record.key[1:]) for record in spec.backend.asked]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert numbers[-1] >= (count - 1) // 4


def test_estimate_without_measured_speed_has_no_seconds(tmp_path: Path) -> None:
    found = estimated(write_input(tmp_path / "in.jsonl", 3), EchoSpec())
    assert (found.prompt_tokens, found.answer_tokens, found.seconds) == (30, 6, None)


def test_estimate_ignores_records_that_fail(tmp_path: Path) -> None:
    spec = EchoSpec(EchoBackend(MEASURED, fails=lambda record: record.key != "r1"))
    found = estimated(write_input(tmp_path / "in.jsonl", 4), spec)
    assert (found.tried, found.answer_tokens) == (1, 8)


def test_estimate_counts_invalid_records_and_reports_the_first_five(tmp_path: Path) -> None:
    warnings: list[str] = []
    found = estimated(write_input(tmp_path / "in.jsonl", 2, bad=7), EchoSpec(), warnings)
    assert (found.records, found.bad, len(warnings)) == (2, 7, 5)
    assert "in.jsonl:3:" in warnings[0]


def test_estimate_of_only_invalid_records_opens_no_backend(tmp_path: Path) -> None:
    spec = EchoSpec()
    assert estimated(write_input(tmp_path / "in.jsonl", 0, bad=1), spec) == BatchEstimate(0, 1)
    assert spec.opened == 0


def test_estimate_writes_nothing(tmp_path: Path) -> None:
    estimated(write_input(tmp_path / "in.jsonl", 2), EchoSpec())
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_estimate_with_output_that_is_the_input_is_refused(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", 2)
    with pytest.raises(QwenctlError, match="is the input"):
        estimate(input=InputSpec(source), output=OutputSpec(source), backend=EchoSpec(), params=GenerationParams())
