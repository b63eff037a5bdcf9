"""Batches run from Python: input, output and backend go in, statistics come out. A scripted backend answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qwenctl import batch
from qwenctl.batch import BackendStats, BatchStats, GenerationParams, InputSpec, OutputSpec
from qwenctl.batch.backends.openai_client import EndpointSpec
from qwenctl.batch.records import Answer, Record, RecordError
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.locks import file_lock
from qwenctl.loading.batch_engine import EngineSpec
from qwenctl.placement.constraints import LoadRequest, PlacementConstraints
from tests.support.batching import QUESTIONS, read_lines, short_records, write_lines


class Scripted:
    """A backend that answers in upper case, last submitted first; "fail" fails and "end" raises."""

    model, queue_depth = "scripted", 4

    def __init__(self, ends_with: BaseException | None) -> None:
        self.asked: list[Record] = []
        self.is_closed = False
        self._waiting: list[tuple[int, Record]] = []
        self._ends_with = ends_with

    @property
    def stats(self) -> BackendStats:
        return BackendStats(prompt_tokens=2 * len(self.asked), answer_tokens=len(self.asked), parallel=4)

    def submit(self, number: int, record: Record) -> None:
        self._waiting.append((number, record))

    def collect(self, timeout_s: float) -> Sequence[tuple[int, Answer | RecordError]]:
        number, record = self._waiting.pop()
        self.asked.append(record)
        text = record.messages[-1].content
        if text == "end" and self._ends_with is not None:
            raise self._ends_with
        if text == "fail":
            return [(number, RecordError("refused", "no"))]
        return [(number, Answer(text.upper(), "", (), "stop", {"prompt_tokens": 2, "completion_tokens": 1}))]

    def close(self) -> None:
        self.is_closed = True


@dataclass(frozen=True)
class ScriptedSpec:
    """Makes `Scripted` backends and records each with the input that it was opened for."""

    name: str = "scripted"
    ends_with: BaseException | None = None
    opened: list[tuple[Scripted, InputSpec]] = field(default_factory=list)

    def identity(self) -> Mapping[str, Any]:
        return {"model": self.name}

    def open(self, source: InputSpec, warn: Callable[[str], None]) -> Scripted:
        self.opened.append((Scripted(self.ends_with), source))
        return self.opened[-1][0]


def asked_prompts(backend: ScriptedSpec) -> list[str]:
    return [record.messages[-1].content for made, _ in backend.opened for record in made.asked]


@pytest.fixture
def source(tmp_path: Path) -> InputSpec:
    prompts = ["a", "b", "fail", "c", "d", "e"]
    return InputSpec(write_lines(tmp_path / "in.jsonl", [{"id": text, "prompt": text} for text in prompts]))


@pytest.fixture
def output(tmp_path: Path) -> OutputSpec:
    return OutputSpec(tmp_path / "out.jsonl")


def test_run_writes_answers_in_input_order_and_returns_statistics(source: InputSpec, output: OutputSpec) -> None:
    backend, seen = ScriptedSpec(), list[BatchStats]()
    stats = batch.run(input=source, output=output, backend=backend, on_progress=seen.append)
    assert [(line["id"], line["answer"]) for line in read_lines(Path(output.path))] == [
        (text, text.upper()) for text in "abcde"
    ]
    assert (stats.total, stats.answered, stats.failed, stats.known, stats.settled) == (6, 5, 1, 0, 6)
    assert stats.work.answer_tokens == 6
    assert seen
    assert seen[-1] is stats
    [(made, given)] = backend.opened
    assert made.is_closed
    assert given == source


def test_failed_records_are_listed_and_retried_on_request(source: InputSpec, output: OutputSpec) -> None:
    batch.run(input=source, output=output, backend=ScriptedSpec())
    errors = Path(output.path).with_name("out.errors.jsonl")
    assert [line["id"] for line in read_lines(errors)] == ["fail"]
    again = ScriptedSpec()
    stats = batch.run(input=source, output=output, backend=again)
    assert (stats.known, stats.answered, stats.failed, asked_prompts(again)) == (5, 0, 1, [])
    retried = ScriptedSpec()
    batch.run(input=source, output=OutputSpec(output.path, retry_errors=True), backend=retried)
    assert asked_prompts(retried) == ["fail"]


def test_batch_resumes_after_a_backend_error(tmp_path: Path, output: OutputSpec) -> None:
    prompts = ["a", "b", "c", "d", "e", "end", "f"]
    source = InputSpec(write_lines(tmp_path / "in.jsonl", [{"prompt": text} for text in prompts]))
    backend = ScriptedSpec(ends_with=QwenctlError("gone", "look", ExitCode.NETWORK))
    with pytest.raises(QwenctlError) as caught:
        batch.run(input=source, output=output, backend=backend)
    done = len(asked_prompts(backend)) - 1
    assert caught.value.message == f"gone; {done} of 7 records are done"
    assert (caught.value.hint, caught.value.code) == ("look; the same command resumes", ExitCode.NETWORK)
    assert backend.opened[0][0].is_closed
    rest = ScriptedSpec()
    stats = batch.run(input=source, output=output, backend=rest)
    assert (stats.known, stats.answered) == (done, 7 - done)
    assert [line["answer"] for line in read_lines(Path(output.path))] == [text.upper() for text in prompts]


@pytest.mark.parametrize(
    ("end", "code"), [(KeyboardInterrupt(), ExitCode.INTERRUPTED), (SystemExit(143), ExitCode.TERMINATED)]
)
def test_signal_ends_a_batch_with_an_error_that_counts_finished_records(
    end: BaseException, code: ExitCode, tmp_path: Path, output: OutputSpec
) -> None:
    source = InputSpec(write_lines(tmp_path / "in.jsonl", [{"prompt": "end"}]))
    with pytest.raises(QwenctlError) as caught:
        batch.run(input=source, output=output, backend=ScriptedSpec(ends_with=end))
    assert (caught.value.message, caught.value.code) == ("stopped; 0 of 1 records are done", code)


def test_changed_settings_are_refused_unless_forced(source: InputSpec, output: OutputSpec) -> None:
    batch.run(input=source, output=output, backend=ScriptedSpec())
    hot = GenerationParams(sampling={"temperature": 2.0})
    for backend, params, name in (
        (ScriptedSpec("another"), GenerationParams(), "with another --model"),
        (ScriptedSpec(), hot, "without --temp, now it is 2.0"),
    ):
        with pytest.raises(QwenctlError, match=f"was written {name}"):
            batch.run(input=source, output=output, backend=backend, params=params)
        assert backend.opened == []
    forced = OutputSpec(output.path, resume="force")
    stats = batch.run(input=source, output=forced, backend=ScriptedSpec(), params=hot)
    assert stats.known == 5
    overwriting = ScriptedSpec("another")
    batch.run(input=source, output=OutputSpec(output.path, overwrite=True), backend=overwriting)
    assert len(asked_prompts(overwriting)) == 6


def test_settings_are_recorded_under_their_option_names(source: InputSpec, output: OutputSpec) -> None:
    """The names never change, so that output of an earlier release can be resumed."""
    params = GenerationParams(think=False, max_tokens=9, sampling={"top_k": 3}, grammar='root ::= "A"')
    recorded = OutputSpec(output.path, recorded_as={"grammar": "a.gbnf"})
    batch.run(input=source, output=recorded, backend=ScriptedSpec(), params=params)
    header = read_lines(Path(output.path).with_name("out.stats.jsonl"))[0]
    assert json.dumps(header["batch"]["settings"]) == json.dumps(
        {
            "model": "scripted", "think": False, "think-budget": -1, "max-tokens": 9, "grammar": "a.gbnf",
            "json-schema": None, "--top-k": 3, "seed": 0, "--prompt": None, "--system": None, "--prefix": None,
            "--keep": [], "--format": "qwenctl", "--select": "", "--order": "input", "kind": "jsonl",
        }
    )  # fmt: skip


def test_limit_and_sample_select_records_and_templates_build_prompts(tmp_path: Path, output: OutputSpec) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{number}\n" for number in range(50)))
    for given, many in ((InputSpec(path, "lines", limit=3), 3), (InputSpec(path, "lines", sample=7, seed=1), 7)):
        backend = ScriptedSpec()
        overwriting = OutputSpec(output.path, overwrite=True)
        stats = batch.run(input=given, output=overwriting, backend=backend)
        assert (stats.total, stats.answered, given.max_records) == (many, many, many)
    backend = ScriptedSpec()
    spec = InputSpec(path, "lines", prompt="say {text}", prefix="Be {brief}.", limit=1)
    batch.run(input=spec, output=OutputSpec(output.path, overwrite=True), backend=backend)
    [record] = backend.opened[0][0].asked
    assert [(one.role, one.content) for one in record.messages] == [("system", "Be {brief}."), ("user", "say 0")]


def test_passthrough_fields_and_a_selected_field_are_written(tmp_path: Path, output: OutputSpec) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a", "lang": "fr"}])
    batch.run(input=InputSpec(source, passthrough=("lang",)), output=output, backend=ScriptedSpec())
    assert [line["lang"] for line in read_lines(Path(output.path))] == ["fr"]
    alone = OutputSpec(tmp_path / "alone.jsonl", select="answer")
    batch.run(input=InputSpec(source, passthrough=("lang",)), output=alone, backend=ScriptedSpec())
    assert read_lines(Path(alone.path)) == ["A"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InputSpec(kind="csv", prompt="x", null=True), "--null and --csv cannot be used together"),
        (lambda: InputSpec(kind="files"), "--files needs --prompt"),
        (lambda: InputSpec(system="s", prefix="p"), "--prefix and --system cannot be used together"),
        (lambda: InputSpec(passthrough=("usage",)), "--keep usage: answers already have a field of that name"),
        (lambda: OutputSpec("out", style="openai", select="answer"), "--select and --format cannot be used together"),
        (lambda: OutputSpec(overwrite=True), "--overwrite: standard output cannot be resumed"),
        (lambda: OutputSpec(resume="force"), "--force-resume: standard output cannot be resumed"),
        (lambda: OutputSpec(retry_errors=True), "--retry-errors: standard output cannot be resumed"),
    ],
    ids=[
        "null with csv",
        "files without prompt",
        "prefix with system",
        "reserved passthrough field",
        "select with OpenAI format",
        "overwrite of standard output",
        "resume of standard output",
        "retry on standard output",
    ],
)
def test_contradictory_spec_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(QwenctlError) as caught:
        make()
    assert (caught.value.message, caught.value.code) == (message, ExitCode.USAGE)


def test_output_that_is_the_input_or_locked_or_without_a_folder_is_refused(source: InputSpec, tmp_path: Path) -> None:
    def message(path: Path) -> str:
        backend = ScriptedSpec()
        with pytest.raises(QwenctlError) as caught:
            batch.run(input=source, output=OutputSpec(path), backend=backend)
        assert backend.opened == []
        return caught.value.message

    assert message(Path(source.source)) == f"{source.source} is the input"
    assert message(tmp_path / "none" / "out.jsonl") == f"no folder {tmp_path / 'none'}"
    with file_lock(tmp_path / "out.jsonl.lock", 0, print):
        assert message(tmp_path / "out.jsonl").endswith("is writing this output")


def test_estimate_samples_a_few_records_and_writes_nothing(tmp_path: Path) -> None:
    records: list[object] = [{"prompt": f"question {number}"} for number in range(100)]
    source = write_lines(tmp_path / "in.jsonl", [*records, 7])
    backend, warnings = ScriptedSpec(), list[str]()
    found = batch.estimate(
        input=InputSpec(source), output=OutputSpec(tmp_path / "out.jsonl"), backend=backend,
        params=GenerationParams(), on_warning=warnings.append,
    )  # fmt: skip
    assert (found.records, found.bad, found.tried, found.parallel) == (100, 1, 8, 4)
    assert len(asked_prompts(backend)) == 8
    assert 190 <= found.prompt_tokens <= 210
    assert found.answer_tokens == 100
    assert found.seconds is None
    assert warnings[0].startswith(f"{source}:101:1: ")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_endpoint_identity_is_its_model_and_repr_hides_the_key() -> None:
    spec = EndpointSpec(("http://a",), "some/model", api_key="secret")
    assert spec.identity() == {"model": "some/model", "endpoint": True}
    assert "secret" not in repr(spec)


def test_local_engine_answers_a_batch_run_from_python(toy_gguf: Path, tmp_path: Path, output: OutputSpec) -> None:
    source = InputSpec(write_lines(tmp_path / "in.jsonl", short_records(4)))
    backend = EngineSpec(toy_gguf, LoadRequest(PlacementConstraints(context=512, threads=1)), parallel=2)
    greedy = GenerationParams(sampling={"temperature": 0.0, "presence_penalty": 0.0})
    stats = batch.run(input=source, output=output, backend=backend, params=greedy)
    assert (stats.answered, stats.failed, stats.work.parallel) == (4, 0, 2)
    expected = [question["answer"] for question in QUESTIONS[:4]]
    assert [line["answer"] for line in read_lines(Path(output.path))] == expected
    settings = read_lines(Path(output.path).with_name("out.stats.jsonl"))[0]["batch"]["settings"]
    assert settings == {**settings, **backend.identity(), "room": 512, "cache": "f16 f16"}


def test_input_is_checked_before_a_missing_model_is_reported(tmp_path: Path, output: OutputSpec) -> None:
    source = InputSpec(write_lines(tmp_path / "in.jsonl", short_records(1)))
    for given, message in (
        (InputSpec(tmp_path), f"{tmp_path} is a folder"),
        (source, "no model: -m takes a GGUF file"),
    ):
        with pytest.raises(QwenctlError) as caught:
            batch.run(input=given, output=output, backend=EngineSpec(None))
        assert caught.value.message.startswith(message)
