"""A name that a record was given is its own, whatever records without one come before or after it; joins are right."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.batch.backends.backend import BackendStats
from qwenctl.batch.input.made_up_names import MadeUpNames, given_in_csv
from qwenctl.batch.input.readers import InputFormat, read_items
from qwenctl.batch.input.template import Template
from qwenctl.batch.output.writers import sidecar_path
from qwenctl.batch.records import GenerationParams, Record
from qwenctl.batch.run import run
from qwenctl.batch.specs import InputSpec, OutputSpec
from qwenctl.errors import QwenctlError
from tests.support.echo_backend import EchoBackend, EchoSpec

_NAMES = st.sampled_from([None, "", "absent", 1, 2, "1", "2", "3", "1'", "2''", "line 1", "line 2", "a", 0, "é", "bad"])


class Pipe(io.BytesIO):
    """A stream that cannot be read twice."""

    def seekable(self) -> bool:
        return False


def record(name: object, number: int) -> dict[str, Any]:
    if name == "bad":
        return {"id": f"{number}", "prompt": ""}
    return {"prompt": f"p{number}"} if name == "absent" else {"id": name, "prompt": f"p{number}"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@settings(max_examples=80, deadline=None)
@given(st.lists(_NAMES, min_size=1, max_size=7), st.integers(0, 7), st.booleans())
def test_answers_join_with_their_records_by_name(names: list[object], stop: int, crashes: bool) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        records = [record(name, number) for number, name in enumerate(names)]
        source, output = folder / "in.jsonl", folder / "out.jsonl"
        source.write_text("".join(json.dumps(one) + "\n" for one in records))
        if crashes:  # the first run ends in the middle
            backend = EchoBackend(BackendStats(), collect_raises=KeyboardInterrupt(), queue_depth=1 + stop)
            with contextlib.suppress(QwenctlError):
                run(input=InputSpec(source), output=OutputSpec(output), backend=EchoSpec(backend))
        run(input=InputSpec(source), output=OutputSpec(output), backend=EchoSpec())
        answers = {one["id"]: one["answer"] for one in lines(output)}
        errors = lines(sidecar_path(output, "errors"))
        assert len(answers) == len(lines(output))
        assert not answers.keys() & {one["id"] for one in errors}
        assert len(answers) + len(errors) == len(records)
        seen = set[str]()
        for number, one in enumerate(records, 1):
            name = None if one.get("id") in (None, "") else str(one["id"])
            failed = [error for error in errors if error["line"] == number]
            if one["prompt"] and (name is None or name not in seen):
                assert failed == []
                assert name is None or answers[name] == one["prompt"]
                assert one["prompt"] in answers.values()
            else:
                assert [error["id"] for error in failed] == [None if name in seen else name]
            seen.add(name or "")
    finally:
        shutil.rmtree(folder)


@given(st.lists(_NAMES, min_size=1, max_size=7))
def test_names_from_a_pipe_are_never_given_ones(names: list[object]) -> None:
    data = "".join(json.dumps(record(name, number)) + "\n" for number, name in enumerate(names)).encode()
    read = [list(read_items(Pipe(data), "in", InputFormat("jsonl", GenerationParams()))) for _ in range(2)]
    assert read[0] == read[1]
    keys = [one.key for one in read[0] if isinstance(one, Record)]
    nameless = [name in (None, "", "absent") for name in names if name != "bad"]
    made = [key for key, is_made_up in zip(keys, nameless, strict=True) if is_made_up]
    assert not set(made) & {str(name) for name in names}
    assert len(made) == len(set(made))


def test_name_of_a_csv_row_without_one_is_not_that_of_a_later_row() -> None:
    form = InputFormat("csv", GenerationParams(), Template.parse("{text}", "--prompt"))
    found = list(read_items(io.BytesIO(b"id,text\n,a\n2,b\n,c\n"), "in", form))
    assert [one.key for one in found] == ["2'", "2", "4"]
    assert list(given_in_csv(io.BytesIO(b'text,id\na,7\nb\n"x'), b"\n")) == ["7"]


def test_stream_is_where_it_was_after_reading_ahead() -> None:
    stream = io.BytesIO(b"head\nrest")
    stream.readline()
    names = MadeUpNames(stream, lambda again: iter([again.read().decode(), "3"]))
    assert (names.name(3, b""), names.name(4, b""), stream.read()) == ("3'", "4", b"rest")


@pytest.mark.parametrize("name", [1.5, True, ["a"], {"a": 1}])
@pytest.mark.parametrize("template", [None, Template.parse("{prompt}", "--prompt")])
def test_name_of_another_type_is_an_error(name: object, template: Template | None) -> None:
    data = json.dumps({"id": name, "prompt": "x"}).encode()
    [bad] = read_items(io.BytesIO(data), "in", InputFormat("jsonl", GenerationParams(), template))
    assert not isinstance(bad, Record)
    assert bad.reason.startswith("id: ")
