"""Finished records that wait for earlier ones, kept on the disk until it is their turn.

A `JournalEntry` goes in and comes out again, in this run or, by its key, in the next. The file is written anew when
most of it is no longer needed, so that it stays small however long the batch is.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwenctl.batch.output.append_log import AppendLog

_LEAST_BYTES = 4 << 20  # not worth being made smaller
_GROWTH = 4


@dataclass(frozen=True)
class JournalEntry:
    """A finished record: its line of the output, without the newline, and its line of statistics."""

    key: str
    fingerprint: str
    line: str
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FileSpan:
    """Where an entry stands."""

    begin: int
    size: int


class BatchJournal:
    """The journal in the file `path`; `earlier` are the entries that another run has left, by key."""

    def __init__(self, path: Path) -> None:
        self._file = AppendLog(path)
        self._live: dict[int, FileSpan] = {}
        self._numbers = 0
        self.earlier: dict[str, tuple[int, str]] = {}
        end = 0
        for begin, line in self._file.lines():
            entry = _entry(line)
            if entry is None:
                break
            self.earlier[entry.key] = self._note(FileSpan(begin, len(line))), entry.fingerprint
            end = begin + len(line)
        if end < self._file.size:  # torn
            self._file.truncate(end)

    def append(self, entry: JournalEntry) -> int:
        """Put an entry on the disk; the number by which it is taken."""
        line = json.dumps(asdict(entry), ensure_ascii=True).encode() + b"\n"
        return self._note(FileSpan(self._file.append(line), len(line)))

    def take(self, number: int) -> JournalEntry:
        """An entry, which stays on the disk until another is kept or all are forgotten."""
        place = self._live.pop(number)
        entry = _entry(self._file.read(place.begin, place.size))
        if entry is None:
            raise OSError(None, "another program changed it", str(self._file.path))
        return entry

    def compact(self) -> None:
        """Give back the room of what was taken and is on the disk elsewhere."""
        if not self._live:
            if self._file.size:
                self._file.truncate(0)
        elif self._file.size > _LEAST_BYTES + _GROWTH * sum(place.size for place in self._live.values()):
            self._rewrite()

    def sync(self) -> None:
        """Wait until all is on the disk."""
        self._file.sync()

    def close(self, *, remove: bool) -> None:
        """Close the file; it is of no more use after the last record."""
        self._file.close()
        if remove or not self._file.size:
            self._file.path.unlink(missing_ok=True)

    def _note(self, place: FileSpan) -> int:
        self._numbers += 1
        self._live[self._numbers] = place
        return self._numbers

    def _rewrite(self) -> None:
        path = self._file.path
        unfinished = path.with_name(f"{path.name}.part")
        unfinished.unlink(missing_ok=True)
        smaller = AppendLog(unfinished)
        places = {}
        for number, place in self._live.items():
            places[number] = FileSpan(smaller.append(self._file.read(place.begin, place.size)), place.size)
        smaller.sync()
        os.replace(unfinished, path)
        self._file.close()
        smaller.path = path
        self._file, self._live = smaller, places


def _entry(line: bytes) -> JournalEntry | None:
    """The entry of a line; None for one that is torn."""
    try:
        return JournalEntry(**json.loads(line))
    except (ValueError, TypeError):
        return None
