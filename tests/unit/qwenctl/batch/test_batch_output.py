"""Batch output survives crashes and restarts: the same bytes in the same order, however often the batch resumes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.batch.input.seen_ids import IdSet
from qwenctl.batch.output import batch_journal as journal_module
from qwenctl.batch.output.batch_journal import BatchJournal, JournalEntry
from qwenctl.batch.output.writers import FileOutput, Order, StreamOutput, remove_output, sidecar_path
from qwenctl.batch.records import RecordError
from qwenctl.errors import ExitCode, QwenctlError

SETTINGS = {"model": "m", "--temp": 0.5}
FAILS = 3  # every record whose number is divisible by this fails


def open_output(path: Path, order: Order = "input", **changes: Any) -> FileOutput:
    options = {"settings": SETTINGS, "force": False, "retries": False, **changes}
    return FileOutput(path, order=order, **options)


def entry(number: int) -> JournalEntry:
    return JournalEntry(
        f"r{number}", f"hash{number}", json.dumps({"id": f"r{number}", "text": "ü" * number}), {"seconds": 1}
    )


def settle(output: FileOutput, number: int) -> None:
    if number % FAILS:
        output.write_answer(number, entry(number))
    else:
        output.write_error(number, f"r{number}", f"hash{number}", "", RecordError("kind", "why"))


def abandon(output: FileOutput) -> None:
    """Like kill -9: nothing is closed properly, but everything written stays."""
    for file in (output._output, output._stats, output._errors, output._journal._file):
        file.close()


def todo(output: FileOutput, count: int) -> list[int]:
    """The records that earlier runs have not settled."""
    return [number for number in range(count) if output.already_done(number, f"r{number}", f"hash{number}") is None]


def expected(count: int) -> bytes:
    return "".join(f"{entry(number).line}\n" for number in range(count) if number % FAILS).encode()


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp())
    try:
        yield path / "out.jsonl"
    finally:
        shutil.rmtree(path)


@settings(max_examples=60)
@given(st.data())
def test_output_after_repeated_crashes_equals_single_run(data: st.DataObject) -> None:
    """Records finish in any order, the process dies after any of them, several times, and leaves torn lines."""
    count, kills = data.draw(st.integers(1, 14)), data.draw(st.integers(0, 4))
    with folder() as path:
        for _ in range(kills):
            output = open_output(path)
            order = data.draw(st.permutations(todo(output, count)))
            for number in order[: data.draw(st.integers(0, len(order)))]:
                settle(output, number)
            abandon(output)
            torn = data.draw(st.sampled_from([path, sidecar_path(path, "stats"), path.with_name("out.jsonl.journal")]))
            with torn.open("ab") as file:
                file.write(data.draw(st.binary(max_size=20)).replace(b"\n", b""))
        output = open_output(path)
        for number in todo(output, count):
            settle(output, number)
        output.close(is_complete=True)
        assert path.read_bytes() == expected(count)
        failed = [json.loads(line)["id"] for line in sidecar_path(path, "errors").read_text().splitlines()]
        assert sorted(failed) == sorted({f"r{number}" for number in range(0, count, FAILS)})
        assert not path.with_name("out.jsonl.journal").exists()


@settings(max_examples=30)
@given(st.permutations(range(9)), st.integers(0, 9), st.integers(0, 40))
def test_output_after_power_cut_is_resumed(order: list[int], finished: int, lost: int) -> None:
    """Either of the two files may lack its last bytes: a record in only one of them is answered again."""
    with folder() as path:
        for torn in (path, sidecar_path(path, "stats")):
            output = open_output(path, retries=True)
            todo(output, 9)
            for number in order[:finished]:
                if output._sequencer.next <= number and number not in output._sequencer.waiting:
                    settle(output, number)
            abandon(output)
            with torn.open("r+b") as file:
                file.truncate(max(torn.stat().st_size - lost, len(header(path)) if torn != path else 0))
        output = open_output(path, retries=True)
        for number in todo(output, 9):
            settle(output, number)
        output.close(is_complete=True)
        assert path.read_bytes() == expected(9)


def header(path: Path) -> bytes:
    return sidecar_path(path, "stats").read_bytes().split(b"\n")[0] + b"\n"


def test_output_in_completion_order_has_each_record_once(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for numbers in ([4, 1], [7, 2], [5]):
        output = open_output(path, "done")
        assert not set(numbers) - set(todo(output, 9))
        for number in numbers:
            settle(output, number)
        abandon(output)
    output = open_output(path, "done")
    assert todo(output, 9) == [0, 3, 6, 8]
    output.close(is_complete=True)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["r4", "r1", "r7", "r2", "r5"]


def test_failed_records_are_retried_on_request_and_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    output = open_output(path)
    for number in todo(output, 9):
        settle(output, number)
    output.close(is_complete=True)
    output = open_output(path)
    assert todo(output, 9) == []
    output.close(is_complete=True)
    for ends in (True, False):  # once with a kill in the middle
        output = open_output(path, retries=True)
        assert todo(output, 9) == ([0, 3, 6] if ends else [3, 6])
        output.write_answer(0, entry(0)) if ends else [output.write_answer(number, entry(number)) for number in (3, 6)]
        abandon(output) if ends else output.close(is_complete=True)
    assert path.read_text().splitlines() == [entry(number).line for number in range(9)]
    assert not sidecar_path(path, "errors").exists()


def refusal(action: Callable[[], object]) -> tuple[str, str, ExitCode]:
    with pytest.raises(QwenctlError) as caught:
        action()
    return caught.value.message, caught.value.hint, caught.value.code


@pytest.fixture
def half_done(tmp_path: Path) -> Path:
    path = tmp_path / "out.jsonl"
    output = open_output(path)
    for number in (1, 2, 4):
        settle(output, number)
    settle(output, 0)
    output.close(is_complete=False)
    return path


def test_resume_with_other_settings_is_refused_without_force(half_done: Path) -> None:
    before = half_done.read_bytes()
    message, hint, code = refusal(lambda: open_output(half_done, settings={**SETTINGS, "--temp": 0.7}))
    assert message == f"{half_done} was written with --temp 0.5, now it is 0.7"
    assert (hint, code) == ("--force-resume resumes anyway, --overwrite starts over", ExitCode.USAGE)
    assert half_done.read_bytes() == before
    for force in (True, False):  # after a forced resume, the new settings belong to the output
        again = open_output(half_done, settings={"model": "n"}, force=force)
        assert todo(again, 5) == [3]
        abandon(again)


def test_resume_with_changed_record_is_refused(half_done: Path) -> None:
    output = open_output(half_done)
    output.already_done(0, "r0", "hash0")
    message, _, _ = refusal(lambda: output.already_done(1, "r1", "another"))
    assert message == f"the record r1 has changed since {half_done} was started"


def test_resume_with_changed_output_line_is_refused(half_done: Path) -> None:
    half_done.write_bytes(half_done.read_bytes().replace(b"r2", b"r9"))
    assert (
        refusal(lambda: open_output(half_done))[0] == f"{half_done}:2: this line was changed after the batch wrote it"
    )


def test_file_not_written_by_batch_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious.jsonl"
    path.write_text('{"mine": 1}\n')
    message, hint, code = refusal(lambda: open_output(path))
    assert message == f"{path} exists, but precious.stats.jsonl does not: it cannot be resumed"
    assert (hint, code) == ("--overwrite starts over, or choose another -o", ExitCode.CANNOT_CREATE)
    assert path.read_text() == '{"mine": 1}\n'
    remove_output(path)
    assert list(tmp_path.iterdir()) == [sidecar_path(path, "stats")] or not list(tmp_path.iterdir())


def test_records_inserted_into_input_are_inserted_into_output(tmp_path: Path) -> None:
    """A record was inserted into the middle of the input since the last run."""
    path = tmp_path / "out.jsonl"
    output = open_output(path)
    for place, number in enumerate((1, 2, 4)):
        assert output.already_done(place, f"r{number}", f"hash{number}") is None
        output.write_answer(place, entry(number))
    output.close(is_complete=True)
    output = open_output(path)
    for place, number in enumerate((1, 5, 2, 4)):
        known = output.already_done(place, f"r{number}", f"hash{number}")
        assert known == (None if number == 5 else "done")
    output.write_answer(1, entry(5))
    output.close(is_complete=True)
    assert path.read_text().splitlines() == [entry(number).line for number in (1, 5, 2, 4)]


def test_journal_is_compacted_and_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_MIN_COMPACT_BYTES", 2000)
    path = tmp_path / "journal"
    saved = BatchJournal(path)
    waiting = [saved.append(entry(number)) for number in range(3)]
    for number in range(3, 300):
        waiting.append(saved.append(entry(number % 20)))
        assert saved.take(waiting.pop(0)).key == f"r{(number - 3) % 20 if number > 5 else number - 3}"
        saved.compact()
        assert path.stat().st_size < 6000
    saved.close(remove=False)
    assert len(BatchJournal(path).earlier) >= 3


def test_stream_output_is_in_order_and_failures_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    reported: list[str] = []
    output = StreamOutput("input", reported.append)
    output.write_answer(2, entry(2))
    output.write_error(0, "r0", "", "in:1:5", RecordError("input", "bad"))
    assert capfd.readouterr().out == ""
    output.write_answer(1, entry(1))
    assert capfd.readouterr().out == f"{entry(1).line}\n{entry(2).line}\n"
    assert reported == ["in:1:5: bad"]


@given(st.lists(st.text(max_size=3), max_size=200))
def test_id_set_recognizes_repeated_ids(texts: list[str]) -> None:
    ids, seen = IdSet(), set[str]()
    for text in texts:
        assert ids.add(text) == (text not in seen)
        seen.add(text)


def test_id_set_with_many_ids_takes_little_memory() -> None:
    ids = IdSet()
    assert all(ids.add(str(number)) for number in range(20_000))
    assert not any(ids.add(str(number)) for number in range(0, 20_000, 7))
    assert len(ids._table) * 8 <= 65_536 * 8
