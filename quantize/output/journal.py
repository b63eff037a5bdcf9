"""The journal of an unfinished output: which tensors are on disk, and which process is writing.

A text file. The first line is the fingerprint of the plan. It is followed by a line `FILE TENSOR #CHECK` for each
finished tensor, a line `pid N` for each process that worked on the output, and when only the renames are left, a line
`sha256 FILE HASH #CHECK` for each file and `whole`. A line counts only if it ends with a newline, because a killed
process may leave half a line, and if it has not been damaged: a tensor that is not on disk would be left out. Journals
of older versions have no checksums, nor the line `checked`, the second one. A lock on the file keeps other processes
out.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from quantize.errors import CannotWrite, OutputLocked
from quantize.file_system import AlreadyLocked, open_locked, write_all

_COMPLETE_LINE, _HASH_WORD, _CHECKED_LINE = "whole", "sha256", "checked"
# How a journal begins: with a fingerprint, or with zeros after a power cut.
_BEGIN = re.compile(rb"[0-9a-f]{32,128}\n|\0+[0-9a-z# \n]*\Z|\Z")


@dataclass(frozen=True)
class JournalState:
    """The content of a journal. `finished` holds (file index, tensor index); `complete` means only renames are left.

    `hashes` are the SHA-256 of complete files by their index; older versions did not write them.
    """

    fingerprint: str = ""
    finished: frozenset[tuple[int, int]] = frozenset()
    complete: bool = False
    hashes: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Journal:
    """An open and locked journal."""

    path: Path
    descriptor: int

    def read(self) -> JournalState:
        """Read the journal, and truncate an incomplete last line that a killed process left."""
        text = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
        os.ftruncate(self.descriptor, text.rfind(b"\n") + 1)  # so that the next line does not continue half a line
        return _parse_journal(text)

    def start(self, fingerprint: str) -> None:
        """Empty the journal and write the fingerprint of a new plan."""
        os.ftruncate(self.descriptor, 0)
        self.append([fingerprint, _CHECKED_LINE])

    def append(self, lines: Iterable[str]) -> None:
        """Write lines and wait until they are on disk (fsync)."""
        write_all(self.descriptor, "".join(f"{line}\n" for line in lines).encode())
        os.fsync(self.descriptor)

    def record(self, tensors: Iterable[tuple[int, int]]) -> None:
        """Record tensors as finished; their bytes must be on disk already."""
        self.append(_checked(f"{file} {tensor}") for file, tensor in tensors)

    def record_complete(self, hashes: Iterable[str] = ()) -> None:
        """Record that all tensors are on disk and only the renames are left, and the SHA-256 of each file."""
        self.append([*(_checked(f"{_HASH_WORD} {number} {one}") for number, one in enumerate(hashes)), _COMPLETE_LINE])

    def remove(self) -> None:
        """Delete the journal file."""
        self.path.unlink(missing_ok=True)


@contextmanager
def open_journal(path: Path, output: Path) -> Iterator[Journal]:
    """Open and lock the journal at `path`. Raises OSError, or OutputLocked with `output` in the message.

    Raises CannotWrite for a file that is no journal, or a symbolic link, before anything is written.
    """
    if path.is_symlink():
        raise CannotWrite(f"{path} is a symbolic link", f"move {path.name} away, or choose another -o")
    try:
        file = open_locked(path, os.O_APPEND)  # another process may still append
    except AlreadyLocked as held:
        raise OutputLocked(
            f"another process{_describe_holder(held.content)} is writing {output}", "wait, or choose another -o"
        ) from held
    with file:
        if not _BEGIN.match(os.pread(file.fileno(), 200, 0)):
            raise CannotWrite(f"{path} exists, and is no journal", f"move {path.name} away, or choose another -o")
        yield Journal(path, file.fileno())


def peek_journal(path: Path) -> JournalState:
    """Read the journal at `path` without a lock; an empty state if there is none. Raises OSError."""
    return _parse_journal(path.read_bytes()) if path.is_file() else JournalState()


def _parse_journal(text: bytes) -> JournalState:
    """Parse all lines with a newline."""
    first, *given = text[: text.rfind(b"\n") + 1].decode("ascii", "replace").splitlines() or [""]
    lines = list(_undamaged(given, all_checked=_CHECKED_LINE in given))
    return JournalState(first, frozenset(_parse_finished(lines)), _COMPLETE_LINE in lines, dict(_parse_hashes(lines)))


def _checked(line: str) -> str:
    """A line with its checksum."""
    return f"{line} #{zlib.crc32(line.encode()):08x}"


def _undamaged(lines: Iterable[str], *, all_checked: bool) -> Iterator[str]:
    """The lines without their checksums, except those that were damaged; with `all_checked` none may have lost its own.

    That a line in the middle ends too early takes but one byte.
    """
    for line in lines:
        content, mark, _ = line.rpartition(" #")
        if mark and _checked(content) == line:
            yield content
        elif not mark and (not all_checked or line == _COMPLETE_LINE):
            yield line


def _parse_hashes(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for line in lines:
        with suppress(ValueError):
            word, file, one = line.split()
            if word == _HASH_WORD:
                yield int(file), one


def _describe_holder(journal: bytes) -> str:
    """Describe the last process in the journal as " (pid N)", or "" if it has none."""
    pids = [line for line in journal.decode("ascii", "replace").splitlines() if line.startswith("pid ")]
    return f" ({pids[-1]})" if pids else ""


def _parse_finished(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    for line in lines:
        with suppress(ValueError):  # other lines: "pid N", "sha256 FILE HASH" and "whole"
            file, tensor = line.split()
            yield int(file), int(tensor)
