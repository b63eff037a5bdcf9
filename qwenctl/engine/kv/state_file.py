"""The state of a sequence in a file, to be there on another day: written whole or not at all, checked when it is read.

A `SequenceState` comes in or goes out. The file is safetensors; its metadata say what must agree before the state may
be used (the model, the types of the KV cache) and hold a checksum, for libllama believes any bytes of the right length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from qwenctl.files.atomic import atomic_write

Bytes = npt.NDArray[np.uint8]
_TOKENS, _FOLDS, _STATE, _SNAPSHOT, _CHECKSUM = "tokens", "folds", "state", "snapshot.", "checksum"
_DAMAGED = "it is damaged"


class StateMismatch(Exception):
    """A state file that cannot be used: damaged, or made with something else. The text says why."""


@dataclass(frozen=True)
class SequenceState:
    """The tokens of a sequence, its whole state, and snapshots of its recurrent part by position.

    `folds` tell of pictures among the tokens (see `folds`).
    """

    tokens: list[int]
    state: Bytes
    snapshots: Mapping[int, Bytes]
    folds: tuple[tuple[int, int], ...] = ()


def write_state(path: Path, key: Mapping[str, str], saved: SequenceState) -> None:
    """Write `saved` to `path`, for its owner only, in the place of what was there. Raises OSError.

    `key` is what must agree when it is read.
    """
    arrays: dict[str, Bytes] = {_TOKENS: np.array(saved.tokens, "<i4").view(np.uint8), _STATE: saved.state}
    if saved.folds:
        arrays[_FOLDS] = np.array(saved.folds, "<i4").reshape(-1).view(np.uint8)
    arrays |= {f"{_SNAPSHOT}{position}": state for position, state in saved.snapshots.items()}
    with atomic_write(path) as file:
        file.write(_header(arrays, {**key, _CHECKSUM: _checksum(arrays)}))
        # Not by the library, which would copy each array first.
        file.writelines(array.data for array in arrays.values())


class StateWriter:
    """Writes states in the background, one after the other; of those that wait only the newest."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def write(self, path: Path, key: Mapping[str, str], saved: SequenceState) -> None:
        """Write `saved` soon."""
        if self._last is not None:
            self._last.cancel()
        self._last = self._thread.submit(write_state, path, key, saved)

    def flush(self) -> str:
        """Wait until the last state is on the disk; what was in the way, if anything."""
        error = self._last.exception() if self._last is not None else None
        return str(error) if error is not None else ""


def read_state(path: Path, key: Mapping[str, str]) -> SequenceState:
    """The state in `path`. Raises UnusableState, or OSError if there is no such file."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            different = [name for name, value in key.items() if metadata.get(name) != value]
            if different:
                raise StateMismatch(f"it was made with another {different[0]}")
            arrays: dict[str, Bytes] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    except SafetensorError as error:
        raise StateMismatch(_DAMAGED) from error
    if metadata.get(_CHECKSUM) != _checksum(arrays):
        raise StateMismatch(_DAMAGED)
    snapshots = {int(name.removeprefix(_SNAPSHOT)): arrays[name] for name in arrays if name.startswith(_SNAPSHOT)}
    folds = arrays[_FOLDS].view("<i4").tolist() if _FOLDS in arrays else []
    pairs = tuple(zip(folds[::2], folds[1::2], strict=True))
    return SequenceState(arrays[_TOKENS].view("<i4").tolist(), arrays[_STATE], snapshots, pairs)


def _header(arrays: Mapping[str, Bytes], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file: its length, then JSON."""
    fields: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.size
        fields[name] = {"dtype": "U8", "shape": [array.size], "data_offsets": [begin, end]}
    data = json.dumps(fields).encode()
    return len(data).to_bytes(8, "little") + data


def _checksum(arrays: Mapping[str, Bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].size} ".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()
