"""A whole batch without a model: what is refused before a backend is opened, and how each end of it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenctl.batch.backends.backend import BackendStats
from qwenctl.batch.output.writers import sidecar_path
from qwenctl.batch.run import run
from qwenctl.batch.specs import InputSpec, OutputSpec
from qwenctl.errors import ExitCode, QwenctlError
from tests.support.echo_backend import EchoBackend, EchoSpec


def ignore(_: str) -> None:
    """Warnings of these tests are not looked at."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{number}", "prompt": f"p{number}"}) + "\n" for number in range(6)))
    return path


def interrupted(error: BaseException) -> EchoSpec:
    """A backend that answers one record and is then ended by `error`."""
    return EchoSpec(EchoBackend(BackendStats(), collect_raises=error))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_batch_answers_every_record_in_input_order(source: Path, tmp_path: Path) -> None:
    spec = EchoSpec()
    stats = run(input=InputSpec(source), output=OutputSpec(tmp_path / "out.jsonl"), backend=spec)
    assert [line["id"] for line in lines(tmp_path / "out.jsonl")] == [f"r{number}" for number in range(6)]
    assert (stats.total, stats.answered, stats.failed) == (6, 6, 0)
    assert spec.backend.is_closed


def test_batch_that_is_complete_is_not_answered_again(source: Path, tmp_path: Path) -> None:
    spec = EchoSpec()
    for _ in range(2):
        stats = run(input=InputSpec(source), output=OutputSpec(tmp_path / "out.jsonl"), backend=spec)
    assert len(spec.backend.asked) == 6
    assert (stats.known, stats.answered) == (6, 0)


def test_failed_records_are_counted_and_listed_beside_the_output(source: Path, tmp_path: Path) -> None:
    spec = EchoSpec(EchoBackend(BackendStats(), fails=lambda record: record.key == "r2"))
    stats = run(input=InputSpec(source), output=OutputSpec(tmp_path / "out.jsonl"), backend=spec, on_warning=ignore)
    assert (stats.answered, stats.failed) == (5, 1)
    assert [line["id"] for line in lines(sidecar_path(tmp_path / "out.jsonl", "errors"))] == ["r2"]


def test_output_that_is_the_input_is_refused_before_a_backend_is_opened(source: Path) -> None:
    before, spec = source.read_bytes(), EchoSpec()
    with pytest.raises(QwenctlError, match="is the input"):
        run(input=InputSpec(source), output=OutputSpec(source), backend=spec)
    assert (spec.opened, source.read_bytes()) == (0, before)


def test_bad_template_is_refused_before_a_backend_is_opened(source: Path, tmp_path: Path) -> None:
    spec = EchoSpec()
    with pytest.raises(QwenctlError, match="--prompt is not a template"):
        run(input=InputSpec(source, prompt="{"), output=OutputSpec(tmp_path / "out.jsonl"), backend=spec)
    assert spec.opened == 0
    assert not (tmp_path / "out.jsonl").exists()


def test_missing_input_is_refused_before_a_backend_is_opened(tmp_path: Path) -> None:
    spec = EchoSpec()
    with pytest.raises(FileNotFoundError):
        run(input=InputSpec(tmp_path / "none"), output=OutputSpec(tmp_path / "out.jsonl"), backend=spec)
    assert spec.opened == 0


def test_backend_that_cannot_be_opened_leaves_no_lock_behind(source: Path, tmp_path: Path) -> None:
    spec = EchoSpec(open_raises=QwenctlError("no model"))
    with pytest.raises(QwenctlError, match="no model"):
        run(input=InputSpec(source), output=OutputSpec(tmp_path / "out.jsonl"), backend=spec)
    run(input=InputSpec(source), output=OutputSpec(tmp_path / "out.jsonl"), backend=EchoSpec())
    assert len(lines(tmp_path / "out.jsonl")) == 6


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "stopped; "),
        (SystemExit(ExitCode.TERMINATED), ExitCode.TERMINATED, "stopped; "),
        (OSError(28, "No space left on device"), ExitCode.IO, "the output: no space left on device; "),
    ],
)
def test_batch_that_is_ended_says_how_far_it_came_and_resumes(
    error: BaseException, code: ExitCode, message: str, source: Path, tmp_path: Path
) -> None:
    spec = interrupted(error)
    with pytest.raises(QwenctlError) as caught:
        run(input=InputSpec(source), output=OutputSpec(tmp_path / "out.jsonl"), backend=spec)
    assert caught.value.code == code
    assert caught.value.message == f"{message}0 of 6 records are done"
    assert "the same command resumes" in caught.value.hint
    assert spec.backend.is_closed
    stats = run(input=InputSpec(source), output=OutputSpec(tmp_path / "out.jsonl"), backend=EchoSpec())
    assert (stats.answered, len(lines(tmp_path / "out.jsonl"))) == (6, 6)


def test_batch_to_standard_output_does_not_promise_to_resume(source: Path) -> None:
    with pytest.raises(QwenctlError) as caught:
        run(input=InputSpec(source), output=OutputSpec(), backend=interrupted(KeyboardInterrupt()))
    assert caught.value.hint == ""
