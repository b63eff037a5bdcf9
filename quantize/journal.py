"""The journal of an unfinished output: which tensors are on the disk, and which process is writing.

A text file. The first line is the fingerprint of the plan; then a line `FILE TENSOR` for each finished tensor, a line
`pid N` for each process that worked on it, and `whole` when nothing but the final names is missing. A line counts when
it is whole, for a killed process may leave half of one. A lock on the file keeps a second process out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import OutputLocked

_WHOLE = "whole"


@dataclass(frozen=True)
class JournalState:
    """What a journal says. `finished` are (file number, tensor number)."""

    fingerprint: str = ""
    finished: frozenset[tuple[int, int]] = frozenset()
    whole: bool = False


@dataclass(frozen=True)
class Journal:
    """An open and locked journal."""

    path: Path
    descriptor: int

    def read(self) -> JournalState:
        """What the journal says; what a killed process left of a line is cut off."""
        text = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
        end = text.rfind(b"\n") + 1
        os.ftruncate(self.descriptor, end)
        first, *lines = text[:end].decode("ascii", "replace").splitlines() or [""]
        return JournalState(first, frozenset(_pairs(lines)), _WHOLE in lines)

    def start(self, fingerprint: str) -> None:
        """Begin anew, for the plan with this fingerprint."""
        os.ftruncate(self.descriptor, 0)
        self.append([fingerprint])

    def append(self, lines: Iterable[str]) -> None:
        """Write lines and wait until they are on the disk."""
        os.write(self.descriptor, "".join(f"{line}\n" for line in lines).encode())
        os.fsync(self.descriptor)

    def record(self, tensors: Iterable[tuple[int, int]]) -> None:
        """Record tensors as finished; their bytes must be on the disk."""
        self.append(f"{file} {tensor}" for file, tensor in tensors)

    def record_whole(self) -> None:
        """Record that only the final names are missing."""
        self.append([_WHOLE])

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


@contextmanager
def open_journal(path: Path, output: Path) -> Iterator[Journal]:
    """The journal at `path`, for this process alone. Raises Busy (`output` is named), OSError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            _lock(descriptor, output)
            if _is_still(path, descriptor):
                yield Journal(path, descriptor)
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, output: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputLocked(
            f"another process{_holder(descriptor)} is writing {output}", "wait, or choose another -o"
        ) from error
    except OSError:
        return  # a file system without locks, such as some network mounts


def _holder(descriptor: int) -> str:
    """The process that noted itself last, in words."""
    lines = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("ascii", "replace").splitlines()
    pids = [line for line in lines if line.startswith("pid ")]
    return f" ({pids[-1]})" if pids else ""


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether `path` is the open file: its holder may have removed it between the opening and the lock."""
    return path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor))


def _pairs(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    for line in lines:
        with suppress(ValueError):
            file, tensor = line.split()
            yield int(file), int(tensor)
