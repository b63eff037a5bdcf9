"""The journal of an unfinished output: which tensors are on disk, and which process is writing.

A text file. The first line is the fingerprint of the plan. It is followed by a line `FILE TENSOR` for each finished
tensor, a line `pid N` for each process that worked on the output, and `whole` when only the renames are left. A line
counts only if it ends with a newline, because a killed process may leave half a line. A lock on the file keeps other
processes out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import OutputLocked
from quantize.file_system import AlreadyLocked, open_locked, write_all

_COMPLETE_LINE = "whole"


@dataclass(frozen=True)
class JournalState:
    """The content of a journal. `finished` holds (file index, tensor index); `complete` means only renames are left."""

    fingerprint: str = ""
    finished: frozenset[tuple[int, int]] = frozenset()
    complete: bool = False


@dataclass(frozen=True)
class Journal:
    """An open and locked journal."""

    path: Path
    descriptor: int

    def read(self) -> JournalState:
        """Read the journal, and truncate an incomplete last line that a killed process left."""
        text = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
        end = text.rfind(b"\n") + 1
        os.ftruncate(self.descriptor, end)  # so that the next line does not continue half a line
        first, *lines = text[:end].decode("ascii", "replace").splitlines() or [""]
        return JournalState(first, frozenset(_parse_finished(lines)), _COMPLETE_LINE in lines)

    def start(self, fingerprint: str) -> None:
        """Empty the journal and write the fingerprint of a new plan."""
        os.ftruncate(self.descriptor, 0)
        self.append([fingerprint])

    def append(self, lines: Iterable[str]) -> None:
        """Write lines and wait until they are on disk (fsync)."""
        write_all(self.descriptor, "".join(f"{line}\n" for line in lines).encode())
        os.fsync(self.descriptor)

    def record(self, tensors: Iterable[tuple[int, int]]) -> None:
        """Record tensors as finished; their bytes must be on disk already."""
        self.append(f"{file} {tensor}" for file, tensor in tensors)

    def record_complete(self) -> None:
        """Record that all tensors are on disk and only the renames are left."""
        self.append([_COMPLETE_LINE])

    def remove(self) -> None:
        """Delete the journal file."""
        self.path.unlink(missing_ok=True)


@contextmanager
def open_journal(path: Path, output: Path) -> Iterator[Journal]:
    """Open and lock the journal at `path`. Raises OSError, or OutputLocked with `output` in the message."""
    try:
        file = open_locked(path, os.O_APPEND)  # another process may still append
    except AlreadyLocked as held:
        raise OutputLocked(
            f"another process{_describe_holder(held.content)} is writing {output}", "wait, or choose another -o"
        ) from held
    with file:
        yield Journal(path, file.fileno())


def _describe_holder(journal: bytes) -> str:
    """Describe the last process in the journal as " (pid N)", or "" if it has none."""
    pids = [line for line in journal.decode("ascii", "replace").splitlines() if line.startswith("pid ")]
    return f" ({pids[-1]})" if pids else ""


def _parse_finished(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    for line in lines:
        with suppress(ValueError):  # other lines: "pid N" and "whole"
            file, tensor = line.split()
            yield int(file), int(tensor)
