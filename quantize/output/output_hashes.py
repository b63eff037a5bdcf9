"""The SHA-256 of each output file, computed while the file is being written.

Open files of a plan and the tensors that are on them come in; hashes go out. A thread reads each file back from its
start, up to the first tensor that is not written yet, so that little is left to read after the last tensor.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from quantize.layout import FilePlan

_CHUNK_BYTES = 1 << 20


class _Stopped(Exception):
    """The hashes are no longer wanted."""


class OutputHashes:
    """See `hash_output`. `descriptors` are those of `files`; `written` holds (file index, tensor index)."""

    def __init__(
        self, files: Sequence[FilePlan], descriptors: Sequence[int], written: Collection[tuple[int, int]]
    ) -> None:
        self._files, self._descriptors, self._written = files, descriptors, set(written)
        self._changed = threading.Condition()
        self._is_stopped = False
        self._hashes: tuple[str, ...] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def add(self, tensor: tuple[int, int]) -> None:
        """Say that all bytes of a tensor are written, and will not change."""
        with self._changed:
            self._written.add(tensor)
            self._changed.notify_all()

    def wait(self, seconds: float) -> tuple[str, ...] | None:
        """The hashes in the order of the files, in hex; None if they are not complete after `seconds`. Raises OSError.

        All tensors must have been added, or this never returns any.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._hashes is not None or self._error is not None, seconds)
            if self._error:
                raise self._error
            return self._hashes

    def start(self) -> None:
        """Start to hash."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and return when no file is read any more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        hashes, error = None, None
        try:
            hashes = tuple(map(self._hash_file, range(len(self._files))))
        except _Stopped:
            return
        except BaseException as failure:  # noqa: BLE001 - whatever it is, the caller's thread must raise it
            error = failure
        with self._changed:
            self._hashes, self._error = hashes, error
            self._changed.notify_all()

    def _hash_file(self, number: int) -> str:
        digest, position = hashlib.sha256(), 0
        for end in self._wait_for_tensors(number):
            while position < end:
                data = os.pread(self._descriptors[number], min(_CHUNK_BYTES, end - position), position)
                if not data:
                    raise OSError(f"{self._files[number].path} ends at byte {position:,}")
                digest.update(data)
                position += len(data)
                if self._is_stopped:
                    raise _Stopped
        return digest.hexdigest()

    def _wait_for_tensors(self, number: int) -> Iterator[int]:
        """Yield how far the file is written, in bytes from its start, whenever that is further; waits for it."""
        file = self._files[number]
        for tensor in sorted(range(len(file.tensors)), key=lambda tensor: file.tensors[tensor].offset):
            yield file.tensors[tensor].offset  # all before it is written
            with self._changed:
                while (number, tensor) not in self._written:
                    if self._is_stopped:
                        raise _Stopped
                    self._changed.wait()
        yield file.n_bytes


@contextmanager
def hash_output(
    files: Sequence[FilePlan], descriptors: Sequence[int], written: Collection[tuple[int, int]]
) -> Iterator[OutputHashes]:
    """Hash the open `files` while the block runs; `written` are the tensors that an earlier run has written."""
    hashes = OutputHashes(files, descriptors, written)
    hashes.start()
    try:
        yield hashes
    finally:
        hashes.stop()
