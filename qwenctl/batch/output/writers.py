"""Writers for answers: to a file that can be resumed after any interruption, or to standard output.

Records have numbers, their positions in the input. They are settled in any order: answered, failed, or done by an
earlier run. Lines are written in input order, or as they are done. What is in a line is not known here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from quantize.file_system import sync_folder, write_all
from quantize.foreign_json import parse_object
from qwenctl.batch.output.append_log import AppendLog
from qwenctl.batch.output.batch_journal import BatchJournal, JournalEntry
from qwenctl.batch.output.checked_line import to_checked_line
from qwenctl.batch.output.owned_files import Kind, check_owned
from qwenctl.batch.output.resume import CompletedLine, check_settings, done_lines, header_line, line_hash, reconcile
from qwenctl.batch.records import RecordError
from qwenctl.errors import ExitCode, QwenctlError

Order = Literal["input", "done"]
Known = Literal["done", "failed"]
_SYNC_SECONDS = 1.0  # a power cut loses the answers of this time at most
_STANDARD_OUTPUT = 1  # its file descriptor


class ResultWriter(Protocol):
    """Where a batch writes its answers. Every method may raise OSError."""

    def already_done(self, number: int, key: str, fingerprint: str) -> Known | None:
        """Whether an earlier run has settled the record. To be called once for each, in input order."""

    def write_answer(self, number: int, entry: JournalEntry) -> None:
        """Settle a record with its answer."""

    def write_error(
        self, number: int, key: str, fingerprint: str, where: str, failure: RecordError,
        *, line: int = 0, given_id: str | None = None,
    ) -> None:  # fmt: skip
        """Settle a record with its error; `where` is its position in the input.

        What is no valid record has the key "line N" and no fingerprint, and the id that it was given, if any;
        `line` is N.
        """

    def sync_if_due(self) -> None:
        """To be called often: brings finished records to disk within a second."""

    def close(self, *, is_complete: bool) -> None:
        """Close the files; `is_complete` if every record is settled."""


class _Sequencer:
    """Passes on settled records in the order of their numbers."""

    def __init__(self, pass_on: Callable[[Any], None]) -> None:
        self._pass_on = pass_on
        self.next = 0
        self.waiting: dict[int, Any] = {}

    def settle(self, number: int, what: Any) -> None:
        """Pass `what` on as soon as all lower numbers are settled; None if there is nothing to pass on."""
        self.waiting[number] = what
        while self.next in self.waiting:
            due = self.waiting.pop(self.next)
            self.next += 1
            if due is not None:
                self._pass_on(due)


class StreamOutput:
    """Standard output, or a pipe or device; failed records go to `notify`. It cannot be resumed."""

    def __init__(self, order: Order, notify: Callable[[str], None], path: Path | None = None) -> None:
        self._notify, self._is_ordered = notify, order == "input"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC) if path is not None else _STANDARD_OUTPUT
        self._sequencer = _Sequencer(self._write)

    def already_done(self, number: int, key: str, fingerprint: str) -> Known | None:
        """Always None: there is no earlier run."""
        return None

    def write_answer(self, number: int, entry: JournalEntry) -> None:
        """Write the answer, in input order after all before it."""
        self._sequencer.settle(number, entry) if self._is_ordered else self._write(entry)

    def write_error(
        self, number: int, key: str, fingerprint: str, where: str, failure: RecordError,
        *, line: int = 0, given_id: str | None = None,
    ) -> None:  # fmt: skip
        """Report the error."""
        if self._is_ordered:
            self._sequencer.settle(number, None)
        self._notify(f"{where or key}: {failure.message}")

    def sync_if_due(self) -> None:
        """Does nothing: every line is written at once."""

    def close(self, *, is_complete: bool) -> None:
        """Does nothing: the descriptor stays open until the process ends."""

    def _write(self, entry: JournalEntry) -> None:
        write_all(self._descriptor, entry.line.encode() + b"\n")


class FileOutput:
    """A file with answers, and beside it files for statistics, errors, and answers that wait for earlier ones."""

    def __init__(self, path: Path, settings: Mapping[str, Any], order: Order, *, force: bool, retries: bool) -> None:
        """Open the files and find what is done. Raises QwenctlError if they belong to another batch, or to no batch.

        `path` may be a symbolic link, and stays one; the files beside it may not.
        """
        check_beside(path)
        self._force, self._is_ordered = force, order == "input"
        self._output, self._stats = AppendLog(path, follows_links=True), AppendLog(sidecar_path(path, "stats"))
        self._header = header_line(settings)
        header = check_settings(self._stats, self._output, settings, force=force)
        reconcile(self._stats, self._output)
        if header and self._stats.size:
            self._stats.append(header)
        elif header:
            self._stats.rewrite([header])  # renamed: there is never a file without it
        self._errors, self._journal = (
            AppendLog(sidecar_path(path, "errors")),
            BatchJournal(_journal_path(path)),
        )
        sync_folder(path.parent)
        self._failed, self._failed_lines = self._failed_before(retries=retries)
        self._lines: Iterator[CompletedLine] = done_lines(self._stats)
        self._ahead = next(self._lines, None)
        self._done: dict[str, str] = {}
        if not self._is_ordered:
            self._done = {done.key: done.fingerprint for done in done_lines(self._stats)}
        self._sequencer = _Sequencer(self._take)
        self._synced_at = time.monotonic()

    def already_done(self, number: int, key: str, fingerprint: str) -> Known | None:
        """Whether an earlier run has settled it. Raises QwenctlError if the record has changed since."""
        if key in (self._failed if fingerprint else self._failed_lines):
            self._settle(number, None)
            return "failed"
        if not self._is_ordered:
            if key not in self._done:
                return None
            self._check(key, self._done[key], fingerprint)
            return "done"
        if self._ahead is not None and self._ahead.key == key:
            self._check(key, self._ahead.fingerprint, fingerprint)
            self._ahead = next(self._lines, None)
            self._settle(number, None)
            return "done"
        if self._ahead is not None:
            self._pull_back(self._ahead)
        if key not in self._journal.earlier:
            return None
        place, before = self._journal.earlier.pop(key)
        self._check(key, before, fingerprint)
        self._settle(number, place)
        return "done"

    def write_answer(self, number: int, entry: JournalEntry) -> None:
        """Write the answer, or put it into the journal until all before it are settled."""
        if not self._is_ordered or number == self._sequencer.next:
            self._write(entry)
            self._settle(number, None)
        else:
            self._settle(number, self._journal.append(entry))

    def write_error(
        self, number: int, key: str, fingerprint: str, where: str, failure: RecordError,
        *, line: int = 0, given_id: str | None = None,
    ) -> None:  # fmt: skip
        """Write the error to the errors file."""
        name = key if fingerprint else given_id
        fields = {"id": name, "line": line, "where": where, "hash": fingerprint, "error": asdict(failure)}
        self._errors.append(json.dumps(fields, ensure_ascii=False).encode() + b"\n")
        self._settle(number, None)

    def sync_if_due(self) -> None:
        """Bring finished records to disk if a second has passed since the last time."""
        if time.monotonic() - self._synced_at >= _SYNC_SECONDS:
            self._sync()

    def close(self, *, is_complete: bool) -> None:
        """Bring everything to disk, and delete the journal and the errors file where they are not needed."""
        self._sync()
        self._journal.close(remove=is_complete)
        is_empty = not self._errors.size
        for file in (self._output, self._stats, self._errors):
            file.close()
        if is_empty:
            self._errors.path.unlink(missing_ok=True)

    def _settle(self, number: int, place: int | None) -> None:
        if self._is_ordered:
            self._sequencer.settle(number, place)

    def _take(self, place: int) -> None:
        self._write(self._journal.take(place))

    def _write(self, entry: JournalEntry) -> None:
        """Append the line, then its statistics: if only the first was written, the next run cuts it off."""
        line = entry.line.encode() + b"\n"
        self._output.append(line)
        fields = {"id": entry.key, "hash": entry.fingerprint, "bytes": len(line), "line_hash": line_hash(line)}
        self._stats.append(to_checked_line({**fields, **entry.stats}))

    def _sync(self) -> None:
        for file in (self._output, self._stats, self._errors):
            file.sync()
        self._journal.sync()
        self._journal.compact()
        self._synced_at = time.monotonic()

    def _pull_back(self, first: CompletedLine) -> None:
        """Move this line and all later ones to the journal: the input has another record in their place now."""
        rest = [first, *self._lines]
        for done in rest:
            line = self._output.read(done.output_begin, done.stats["bytes"])
            known = ("id", "hash", "bytes", "line_hash")
            stats = {name: value for name, value in done.stats.items() if name not in known}
            entry = JournalEntry(done.key, done.fingerprint, line.decode().rstrip("\n"), stats)
            self._journal.earlier[done.key] = self._journal.append(entry), done.fingerprint
        self._journal.sync()
        self._output.truncate(first.output_begin)
        self._stats.truncate(first.stats_begin)
        self._stats.append(self._header)  # the active settings header may have been in the part that was truncated
        self._ahead = None

    def _check(self, key: str, before: str, now: str) -> None:
        if before != now and not self._force:
            raise QwenctlError(
                f"the record {key} has changed since {self._output.path} was started",
                "--force-resume keeps the existing answer, --overwrite starts over",
                ExitCode.USAGE,
            )

    def _failed_before(self, *, retries: bool) -> tuple[set[str], set[str]]:
        """The keys of failed records, and of what was no record; none if they are to be retried: the file is cleared.

        Damaged lines are taken out: their records are tried again.
        """
        failed, bad = set[str](), set[str]()
        whole: list[bytes] = []
        for _, line in () if retries else self._errors.lines():
            try:
                fields = parse_object(line)
            except ValueError:
                continue
            whole.append(line)
            if "id" in fields:
                is_record = bool(fields.get("hash"))
                has_line = not is_record and "line" in fields
                (failed if is_record else bad).add(f"line {fields['line']}" if has_line else str(fields["id"]))
        if not whole:
            self._errors.truncate(0)
        elif sum(map(len, whole)) < self._errors.size:
            self._errors.rewrite(whole)
        return failed, bad


def sidecar_path(path: Path, what: str) -> Path:
    """The path of the file `what` beside an output: out.stats.jsonl for out.jsonl."""
    stem = path.name.removesuffix(".jsonl")
    return path.with_name(f"{stem}.{what}.jsonl")


def _journal_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


def check_beside(path: Path) -> None:
    """Raises QwenctlError (CANNOT_CREATE) if a file beside the output `path` was not made by a batch."""
    kinds: tuple[Kind, ...] = ("stats", "errors")
    for kind in kinds:
        check_owned(sidecar_path(path, kind), kind)
    check_owned(_journal_path(path), "journal")


def remove_output(path: Path) -> None:
    """Remove an output and the files beside it. Raises QwenctlError before it does if one of these is no batch's.

    If `path` is a symbolic link, the file that it leads to is removed.
    """
    check_beside(path)
    Path(os.path.realpath(path)).unlink(missing_ok=True)
    for one in (sidecar_path(path, "stats"), sidecar_path(path, "errors"), _journal_path(path)):
        one.unlink(missing_ok=True)
