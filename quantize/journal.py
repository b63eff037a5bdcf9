"""The journal of an unfinished output: which tensors are on disk, and which process is writing.

A text file. The first line is the fingerprint of the plan. It is followed by a line `FILE TENSOR` for each finished
tensor, a line `pid N` for each process that worked on the output, and `whole` when only the renames are left. A line
counts only if it ends with a newline, because a killed process may leave half a line. A lock on the file keeps other
processes out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import OutputLocked

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
        os.write(self.descriptor, "".join(f"{line}\n" for line in lines).encode())
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
    while True:
        # O_APPEND: another process may still append. O_NOFOLLOW: do not write through a symbolic link.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            _acquire_lock(descriptor, output)
            if _is_same_file(path, descriptor):
                yield Journal(path, descriptor)
                return
        finally:
            os.close(descriptor)


def _acquire_lock(descriptor: int, output: Path) -> None:
    """Lock the journal without waiting. Raises OutputLocked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputLocked(
            f"another process{_describe_holder(descriptor)} is writing {output}", "wait, or choose another -o"
        ) from error
    except OSError:
        return  # the file system has no locks, as on some network mounts: continue without


def _describe_holder(descriptor: int) -> str:
    """Describe the last process in the journal as " (pid N)", or "" if it has none."""
    lines = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("ascii", "replace").splitlines()
    pids = [line for line in lines if line.startswith("pid ")]
    return f" ({pids[-1]})" if pids else ""


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Whether `path` still is the open file: its previous holder may have deleted it between our open and lock."""
    return path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor))


def _parse_finished(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    for line in lines:
        with suppress(ValueError):  # other lines: "pid N" and "whole"
            file, tensor = line.split()
            yield int(file), int(tensor)
