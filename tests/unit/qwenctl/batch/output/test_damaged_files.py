"""Whatever byte of a batch's files is flipped or lost on the disk, the batch ends with the answers of a quiet run."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.batch.output.batch_journal import JournalEntry
from qwenctl.batch.output.checked_line import parse_checked_line, to_checked_line
from qwenctl.batch.output.writers import FileOutput, sidecar_path
from qwenctl.errors import ExitCode, QwenctlError

COUNT = 7
SETTINGS = {"model": "m"}
Damage = Literal["flip", "zero", "cut"]


def entry(number: int) -> JournalEntry:
    name, fingerprint = f"r{number}", f"{number:032x}"
    line = json.dumps({"id": name, "answer": f"text {number} é \\u00e9", "hash": fingerprint}, ensure_ascii=False)
    return JournalEntry(name, fingerprint, line, {"line": number + 1})


EXPECTED = "".join(f"{entry(number).line}\n" for number in range(COUNT)).encode()


def resume(path: Path, numbers: range | tuple[int, ...] = range(COUNT), *, complete: bool = True) -> int:
    """Answer those of `numbers` that are not done yet; how many these were."""
    output = FileOutput(path, SETTINGS, "input", force=False, retries=False)
    todo = [number for number in range(COUNT) if output.already_done(number, f"r{number}", f"{number:032x}") is None]
    for number in todo:
        if number in numbers:
            output.write_answer(number, entry(number))
    output.close(is_complete=complete)
    return len(todo)


def damage(path: Path, how: Damage, begin: int, size: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    begin %= len(data)
    if how == "flip":
        data[begin] ^= 1 << bit
    elif how == "zero":
        data[begin : begin + size] = bytes(len(data[begin : begin + size]))
    else:
        del data[begin:]
    path.write_bytes(data)


_HOW = st.sampled_from(["flip", "zero", "cut"])


@settings(max_examples=60, deadline=None)
@given(_HOW, st.integers(0, 5000), st.integers(1, 3000), st.integers(0, 7))
def test_damaged_journal_gives_the_output_of_a_quiet_run(how: Damage, begin: int, size: int, bit: int) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        resume(folder / "out.jsonl", (1, 2, 4, 5, 6), complete=False)  # all but the first wait in the journal
        journal = folder / "out.jsonl.journal"
        if how == "cut":  # the header is on the disk before the file has its name
            header = journal.read_bytes().index(b"\n") + 1
            begin = header + begin % (journal.stat().st_size - header)
        damage(journal, how, begin, size, bit)
        resume(folder / "out.jsonl")
        assert (folder / "out.jsonl").read_bytes() == EXPECTED
        assert resume(folder / "out.jsonl") == 0
    finally:
        shutil.rmtree(folder)


@settings(max_examples=60, deadline=None)
@given(_HOW, st.integers(0, 5000), st.integers(1, 3000), st.integers(0, 7))
def test_damaged_statistics_throw_away_no_answer(how: Damage, begin: int, size: int, bit: int) -> None:
    folder = Path(tempfile.mkdtemp())
    path = folder / "out.jsonl"
    try:
        resume(path)
        first = sidecar_path(path, "stats").read_bytes().index(b"\n") + 1
        data = sidecar_path(path, "stats").read_bytes()
        damage(sidecar_path(path, "stats"), how, first + begin % (len(data) - first), size, bit)
        again = resume(path)
        assert path.read_bytes() == EXPECTED
        assert resume(path) == 0
        if how != "cut":  # the answers name their records themselves
            assert again == 0
    finally:
        shutil.rmtree(folder)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["zero", "cut"]), st.integers(0, 5000), st.integers(1, 3000), st.data())
def test_power_cut_loses_only_answers_that_were_not_on_the_disk(
    how: Damage, begin: int, size: int, data: st.DataObject
) -> None:
    """Zeros in the output, in the statistics, or in both at different places: the batch goes on."""
    folder = Path(tempfile.mkdtemp())
    path = folder / "out.jsonl"
    try:
        resume(path)
        damage(path, how, begin, size, 0)
        if data.draw(st.booleans()):
            stats = sidecar_path(path, "stats")
            header = stats.read_bytes().index(b"\n") + 1
            damage(stats, how, header + data.draw(st.integers(0, stats.stat().st_size - header - 1)), size, 0)
        resume(path)
        assert path.read_bytes() == EXPECTED
        assert resume(path) == 0
    finally:
        shutil.rmtree(folder)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5000), st.integers(0, 7))
def test_flipped_byte_of_the_output_is_refused_or_its_record_answered_again(begin: int, bit: int) -> None:
    folder = Path(tempfile.mkdtemp())
    path = folder / "out.jsonl"
    try:
        resume(path)
        damage(path, "flip", begin, 0, bit)
        before = path.read_bytes()
        code = None
        try:
            resume(path)
        except QwenctlError as error:
            code = error.code
        assert code in (None, ExitCode.BAD_DATA)
        assert path.read_bytes() == (before if code else EXPECTED)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("content", [b"my notes\n", b"my notes", b"a\nb\nc\n", b'{"mine": 1}\n' * 9])
def test_output_replaced_by_another_file_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    resume(path)
    path.write_bytes(content)
    with pytest.raises(QwenctlError) as caught:
        resume(path)
    assert caught.value.code == ExitCode.BAD_DATA
    assert path.read_bytes() == content


@given(st.dictionaries(st.text(), st.text() | st.integers(), min_size=1), st.data())
def test_line_with_a_flipped_bit_is_never_read_as_another(fields: dict[str, object], data: st.DataObject) -> None:
    fields.pop("check", None)
    line = to_checked_line(fields or {"a": 1})
    place, bit = data.draw(st.integers(0, len(line) - 2)), data.draw(st.integers(0, 7))
    torn = bytes([*line[:place], line[place] ^ 1 << bit, *line[place + 1 :]])
    found = parse_checked_line(torn)
    whole = parse_checked_line(line)
    assert whole == (fields or {"a": 1})
    assert found is None or whole.items() <= found.items()  # at most the name of the checksum was hit


def test_file_that_a_kill_has_left_beside_the_journal_is_removed(tmp_path: Path) -> None:
    """The journal is written beside and renamed; the process that did so has ended."""
    left = tmp_path / "out.jsonl.journal.0123abcd.pid99999999.part"
    left.write_bytes(b"half of it")
    resume(tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.stats.jsonl"]
    assert (tmp_path / "out.jsonl").read_bytes() == EXPECTED
