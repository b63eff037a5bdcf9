"""The header of a GGUF file, read with every length checked against the bytes that are there.

A path comes in, a frozen `GGUFHeader` goes out: metadata, tensors with their place in the file, nothing of the data.
No number of the file is believed before it is compared with the file's size, so that a hostile or damaged header costs
neither memory nor time. What the values mean (architecture, limits of the backend) is the caller's business.
Format: docs/gguf.md of the ggml project, versions 2 and 3.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import BadGGUF, MissingInput
from quantize.ggml.types import TYPES_BY_ID

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]

_MAX_KEYS = 100_000
_MAX_TENSORS = 1_000_000
_MAX_DIMENSIONS = 4
_MAX_TEXT_BYTES = 1 << 26
_MAX_VALUES = 1 << 24  # of all arrays together, of which the vocabulary is the largest
START_BYTES = 1 << 16  # holds the sizes of a model; the vocabulary behind them is millions of bytes
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q").unpack_from
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `shape` in GGUF order (row length first), `offset` from the start of the file's data section."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """All that stands before the weights. `data_offset` is where the data section begins in the file."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_bytes: int


def read_header(path: Path) -> GGUFHeader:
    """The header of the GGUF file at `path`.

    Raises MissingInput if there is no such file, BadGGUF if it is not GGUF, damaged, or shorter than its header says.
    """
    if not path.exists():
        raise MissingInput(f"no such file: {path}")
    if not path.is_file():  # a pipe would be waited for
        raise MissingInput(f"{path} is {'a folder' if path.is_dir() else 'not a regular file'}, not a GGUF file")
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 24:
            raise BadGGUF(f"{path.name} has {size} bytes; a GGUF header has at least 24")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _HeaderReader(path.name, data, size).header()


def read_leading_metadata(path: Path) -> dict[str, Value]:
    """The metadata at the start of the GGUF file at `path`: all but the vocabulary, and what may come after it.

    It takes a small part of the time of a whole header. Raises OSError, BadGGUF.
    """
    with path.open("rb") as file:
        return parse_leading_metadata(path.name, file.read(START_BYTES))


def parse_leading_metadata(name: str, data: bytes) -> dict[str, Value]:
    """The metadata that stands whole in `data`, the first bytes of the GGUF file `name`.

    Raises BadGGUF if it does not begin as one. What comes later in the header (the vocabulary is long) is left out.
    """
    cursor = _HeaderReader(name, data, len(data))
    _, n_keys = cursor.start()
    found: dict[str, Value] = {}
    with suppress(BadGGUF):
        for _ in range(n_keys):
            key = cursor.string()
            found[key] = cursor.value(cursor.number("I"))
    return found


class _HeaderReader:
    """A place in the file that can only move forward, and never past the end."""

    def __init__(self, name: str, data: mmap.mmap | bytes, size: int) -> None:
        self.name, self.data, self.size, self.at = name, data, size, 0
        self.values = self.version = 0

    def start(self) -> tuple[int, int]:
        """Move over magic and version to the metadata; the number of tensors and of metadata keys."""
        if self.data[:4] != b"GGUF":
            raise BadGGUF(f"{self.name} is not a GGUF file (it begins with {self.data[:4]!r})")
        self.at = 4
        self.version = self.number("I")
        if self.version not in (2, 3):
            raise BadGGUF(f"{self.name} is GGUF version {self.version}; versions 2 and 3 can be read")
        return self.count("tensors", _MAX_TENSORS), self.count("metadata keys", _MAX_KEYS)

    def header(self) -> GGUFHeader:
        n_tensors, n_keys = self.start()
        metadata = {self.string(): self.value(self.number("I")) for _ in range(n_keys)}
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise BadGGUF(f"{self.name}: general.alignment is {alignment!r}, not a multiple of 8")
        infos = [self.tensor() for _ in range(n_tensors)]
        data_offset = -(-self.at // alignment) * alignment
        for info in infos:
            end = data_offset + info.offset + info.n_bytes
            if info.offset % alignment or end > self.size:
                raise BadGGUF(
                    f"{self.name} ends at {self.size:,} bytes, but its tensor {info.name!r} ends at {end:,}",
                    "the file is incomplete or damaged: download it again, or make it again with `qwenctl quantize`",
                )
        return GGUFHeader(self.version, metadata, tuple(infos), data_offset, self.size)

    def need(self, n_bytes: int) -> int:
        """Move over `n_bytes` and return where they begin."""
        start, self.at = self.at, self.at + n_bytes
        if n_bytes < 0 or self.at > self.size:
            raise BadGGUF(f"{self.name} ends inside its header, at {self.size:,} bytes", "the file is incomplete")
        return start

    def number(self, code: str) -> int:
        value: int = struct.unpack_from("<" + code, self.data, self.need(struct.calcsize("<" + code)))[0]
        return value

    def count(self, what: str, limit: int) -> int:
        number = self.number("Q")
        if number > min(limit, self.size):
            raise BadGGUF(f"{self.name} claims {number:,} {what}")
        return number

    def string(self) -> str:
        length = self.number("Q")
        if length > min(self.size, _MAX_TEXT_BYTES):
            raise BadGGUF(f"{self.name} has a text of {length:,} bytes")
        start = self.need(length)
        return self.data[start : start + length].decode("utf-8", "replace")

    def strings(self, count: int) -> tuple[str, ...]:
        """So many on end. A vocabulary has half a million of them, so that this is not `string` again and again."""
        data, at, last = self.data, self.at, self.size - 8
        found = []
        for _ in range(count):
            start = at + 8
            length: int = _LENGTH(data, at)[0] if at <= last else 0
            at = start + length
            if length > _MAX_TEXT_BYTES or at > self.size:
                self.at = start - 8
                self.string()  # says what is wrong
            found.append(str(data[start:at], "utf-8", "replace"))
        self.at = at
        return tuple(found)

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(self.number("I"))
        code = _FORMATS.get(kind)
        if code is None:
            raise BadGGUF(f"{self.name} has a metadata value of unknown type {kind}")
        scalar: Scalar = self.number(code)
        return scalar

    def array(self, kind: int) -> tuple[Scalar, ...]:
        length = self.number("Q")
        self.values += length
        if length > self.size - self.at or self.values > _MAX_VALUES:
            raise BadGGUF(f"{self.name} has an array of {length:,} values")
        if kind == _STRING:
            return self.strings(length)
        code = _FORMATS.get(kind)
        if code is None:
            raise BadGGUF(f"{self.name} has an array of unknown type {kind}")
        start = self.need(length * struct.calcsize("<" + code))
        return struct.unpack_from(f"<{length}{code}", self.data, start)

    def tensor(self) -> TensorInfo:
        name, n_dimensions = self.string(), self.number("I")
        if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
            raise BadGGUF(f"{self.name}: tensor {name!r} has {n_dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(n_dimensions))
        kind, offset = TYPES_BY_ID.get(type_id := self.number("I")), self.number("Q")
        if kind is None:
            raise BadGGUF(
                f"{self.name}: tensor {name!r} has the ggml type {type_id}, which this version does not support"
            )
        elements = math.prod(shape)
        if not all(shape) or shape[0] % kind.block_elements or elements > self.size * 32:
            raise BadGGUF(f"{self.name}: tensor {name!r} of type {kind.name} has the impossible shape {shape}")
        return TensorInfo(name, shape, kind.name, offset, kind.row_bytes(shape[0]) * (elements // shape[0]))
