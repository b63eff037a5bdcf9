"""A journal on disk for answers that are finished before earlier records, until they can be written in input order.

A `JournalEntry` goes in and comes out again, in this run by its number or in the next one by its key. The file is
rewritten when most of it is no longer needed, so that it stays small in a long batch. Each line has a checksum: one
that was damaged on the disk is as if it had never been written.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwenctl.batch.output.append_log import AppendLog
from qwenctl.batch.output.checked_line import parse_checked_line, to_checked_line

_HEADER = to_checked_line({"batch": {"version": 1, "file": "journal"}})
_MIN_COMPACT_BYTES = 4 << 20  # smaller files are not compacted
_GROWTH = 4  # compact when the file is larger than this many times its live entries


@dataclass(frozen=True)
class JournalEntry:
    """A finished record: its output line without the newline, and the fields of its statistics line."""

    key: str
    fingerprint: str
    line: str
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FileSpan:
    """Byte offset and size of an entry in the journal."""

    begin: int
    size: int


class BatchJournal:
    """The journal in the file `path`; `earlier` has number and fingerprint of each entry of an earlier run, by key."""

    def __init__(self, path: Path) -> None:
        self._file = AppendLog(path)
        self._live: dict[int, FileSpan] = {}
        self._numbers = 0
        self.earlier: dict[str, tuple[int, str]] = {}
        end, is_whole = 0, False
        for begin, line in self._file.lines():
            entry = _parse_entry(line)
            if entry is not None:
                self.earlier[entry.key] = self._add_span(FileSpan(begin, len(line))), entry.fingerprint
            is_whole = line == _HEADER if not begin else is_whole and entry is not None
            end = begin + len(line)
        if not is_whole:  # new, of an earlier release, or damaged: renamed, so that there is never one without header
            self._rewrite()
        elif end < self._file.size:  # the last line is torn
            self._file.truncate(end)

    def append(self, entry: JournalEntry) -> int:
        """Append an entry; the number to `take` it by."""
        line = to_checked_line(asdict(entry))
        return self._add_span(FileSpan(self._file.append(line), len(line)))

    def take(self, number: int) -> JournalEntry:
        """The entry with this number. It stays on disk until `compact`. Raises OSError if the file was changed."""
        place = self._live.pop(number)
        entry = _parse_entry(self._file.read(place.begin, place.size))
        if entry is None:
            raise OSError(None, "another program changed it", str(self._file.path))
        return entry

    def compact(self) -> None:
        """Free the space of taken entries. To be called once these are on disk in the output."""
        if not self._live:
            if self._file.size > len(_HEADER):
                self._file.truncate(len(_HEADER))
        elif self._file.size > _MIN_COMPACT_BYTES + _GROWTH * sum(place.size for place in self._live.values()):
            self._rewrite()

    def sync(self) -> None:
        """Wait until all entries are on disk."""
        self._file.sync()

    def close(self, *, remove: bool) -> None:
        """Close the file, and delete it if `remove` or if no entry is in it."""
        self._file.close()
        if remove or self._file.size <= len(_HEADER):
            self._file.path.unlink(missing_ok=True)

    def _add_span(self, place: FileSpan) -> int:
        self._numbers += 1
        self._live[self._numbers] = place
        return self._numbers

    def _rewrite(self) -> None:
        lines = (self._file.read(place.begin, place.size) for place in self._live.values())
        self._file.rewrite(itertools.chain([_HEADER], lines))
        begin = len(_HEADER)
        for number, place in self._live.items():
            self._live[number] = FileSpan(begin, place.size)
            begin += place.size


def _parse_entry(line: bytes) -> JournalEntry | None:
    """The entry in a line; None if it is torn or damaged."""
    fields = parse_checked_line(line)
    if fields is None or not {"key", "fingerprint", "line"} <= fields.keys() <= {*JournalEntry.__dataclass_fields__}:
        return None
    return JournalEntry(**fields)
