"""The state of a sequence in a file, for another process: written atomically, verified when it is read.

A `SequenceState` comes in or goes out. The format is safetensors. Its metadata say what must match before the state may
be used (the model, the types of the KV cache), and hold a checksum, because libllama accepts any bytes of the right
length.
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
_TOKENS, _MROPE_SPANS, _STATE, _CHECKPOINT, _CHECKSUM = "tokens", "folds", "state", "snapshot.", "checksum"
_DAMAGED = "it is damaged"


class StateMismatch(Exception):
    """A state file that cannot be used: damaged, or made by something else. The text says why."""


@dataclass(frozen=True)
class SequenceState:
    """The tokens of a sequence, its whole state, and checkpoints of its recurrent part by position.

    `mrope_spans` are the `MRopeOffsets.spans` of the images among the tokens.
    """

    tokens: list[int]
    state: Bytes
    checkpoints: Mapping[int, Bytes]
    mrope_spans: tuple[tuple[int, int], ...] = ()


def write_state(path: Path, key: Mapping[str, str], saved: SequenceState) -> None:
    """Write `saved` to `path` atomically, readable by its owner only. Raises OSError.

    `key` holds the properties that must match when the file is read.
    """
    # All arrays are stored as bytes, so that the header is trivial and the checksum covers them as they are.
    arrays: dict[str, Bytes] = {_TOKENS: np.array(saved.tokens, "<i4").view(np.uint8), _STATE: saved.state}
    if saved.mrope_spans:
        arrays[_MROPE_SPANS] = np.array(saved.mrope_spans, "<i4").reshape(-1).view(np.uint8)
    arrays |= {f"{_CHECKPOINT}{position}": state for position, state in saved.checkpoints.items()}
    with atomic_write(path) as file:
        file.write(_header(arrays, {**key, _CHECKSUM: _checksum(arrays)}))
        # Not by the safetensors library, which would copy each array first: a state can have gigabytes.
        file.writelines(array.data for array in arrays.values())


class StateWriter:
    """Writes states in a background thread, in order; a state that still waits is dropped for a newer one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def write(self, path: Path, key: Mapping[str, str], saved: SequenceState) -> None:
        """Queue `saved` for writing."""
        if self._last is not None:
            self._last.cancel()
        self._last = self._thread.submit(write_state, path, key, saved)

    def flush(self) -> str:
        """Wait until the last state is on disk; return the error message, or "" if it was written."""
        error = self._last.exception() if self._last is not None else None
        return str(error) if error is not None else ""


def read_state(path: Path, key: Mapping[str, str]) -> SequenceState:
    """Read the state in `path`. Raises StateMismatch, or OSError if the file cannot be read."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            # Compare the key before reading gigabytes of state.
            different = [name for name, value in key.items() if metadata.get(name) != value]
            if different:
                raise StateMismatch(f"it was made with another {different[0]}")
            arrays: dict[str, Bytes] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    except SafetensorError as error:
        raise StateMismatch(_DAMAGED) from error
    if metadata.get(_CHECKSUM) != _checksum(arrays):
        raise StateMismatch(_DAMAGED)
    checkpoints = {int(name.removeprefix(_CHECKPOINT)): arrays[name] for name in arrays if name.startswith(_CHECKPOINT)}
    numbers = arrays[_MROPE_SPANS].view("<i4").tolist() if _MROPE_SPANS in arrays else []
    spans = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    return SequenceState(arrays[_TOKENS].view("<i4").tolist(), arrays[_STATE], checkpoints, spans)


def _header(arrays: Mapping[str, Bytes], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file: its length, then JSON."""
    fields: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.size
        fields[name] = {"dtype": "U8", "shape": [array.size], "data_offsets": [start, end]}
    data = json.dumps(fields).encode()
    return len(data).to_bytes(8, "little") + data


def _checksum(arrays: Mapping[str, Bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].size} ".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()
