"""A journal on disk for answers that are finished before earlier records, until they can be written in input order.

A `JournalEntry` goes in and comes out again, in this run by its number or in the next one by its key. The file is
rewritten when most of it is no longer needed, so that it stays small in a long batch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quantize.file_system import replace_files
from qwenctl.batch.output.append_log import AppendLog

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
        end = 0
        for begin, line in self._file.lines():
            entry = _parse_entry(line)
            if entry is None:
                break
            self.earlier[entry.key] = self._add_span(FileSpan(begin, len(line))), entry.fingerprint
            end = begin + len(line)
        if end < self._file.size:  # the last line is torn
            self._file.truncate(end)

    def append(self, entry: JournalEntry) -> int:
        """Append an entry; the number to `take` it by."""
        line = json.dumps(asdict(entry), ensure_ascii=True).encode() + b"\n"
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
            if self._file.size:
                self._file.truncate(0)
        elif self._file.size > _MIN_COMPACT_BYTES + _GROWTH * sum(place.size for place in self._live.values()):
            self._rewrite()

    def sync(self) -> None:
        """Wait until all entries are on disk."""
        self._file.sync()

    def close(self, *, remove: bool) -> None:
        """Close the file, and delete it if `remove` or if it is empty."""
        self._file.close()
        if remove or not self._file.size:
            self._file.path.unlink(missing_ok=True)

    def _add_span(self, place: FileSpan) -> int:
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
        replace_files([(unfinished, path)])
        self._file.close()
        smaller.path = path
        self._file, self._live = smaller, places


def _parse_entry(line: bytes) -> JournalEntry | None:
    """The entry in a line; None if it is torn."""
    try:
        return JournalEntry(**json.loads(line))
    except (ValueError, TypeError):
        return None
