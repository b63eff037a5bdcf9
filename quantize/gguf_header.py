"""Read the header of a GGUF file, checking every length against the size of the file.

A path comes in, a frozen `GGUFHeader` goes out: metadata and tensor infos with offsets, but no tensor data. Every count
and length is compared with the file's size before it is used, so that a damaged or malicious header costs neither
memory nor time. What the values mean (architecture, backend limits) is not known here.
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
from quantize.ggml.types import FORK_TYPES, TYPES_BY_ID

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]

# Far above the numbers of any real model; they bound the work that a malicious header can cause.
_MAX_KEYS = 100_000
_MAX_TENSORS = 1_000_000
_MAX_DIMENSIONS = 4
_MAX_TEXT_BYTES = 1 << 26
_MAX_VALUES = 1 << 24  # array elements in the whole header; the vocabulary is the largest array
START_BYTES = 1 << 16  # enough for the model's hyperparameters; the vocabulary after them takes megabytes
# Numbers of the value types in the GGUF format; `_FORMATS` has the struct codes of the scalar types.
_STRING, _ARRAY = 8, 9
_BIG_ENDIAN = "get the little-endian file, or convert it: `python -m gguf.scripts.gguf_convert_endian FILE little`"
# ggml types that other programs write, by their numbers.
_OTHER_TYPES = (
    (range(31, 34), "it is Q4_0 in an order that llama.cpp no longer reads: get the file in Q4_0"),
    (range(36, 39), "it is IQ4_NL in an order that llama.cpp no longer reads: get the file in IQ4_NL"),
    (range(97, 400), "only ik_llama.cpp, a fork, reads it: get a quantization that llama.cpp reads, such as Q4_K_M"),
)
_UNPACK_LENGTH = struct.Struct("<Q").unpack_from
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `shape` in GGUF order (row length first), `offset` in bytes from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """Everything before the weights. `data_offset` is where the data section starts in the file, in bytes."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_bytes: int  # size of the whole file


def read_header(path: Path) -> GGUFHeader:
    """Read the header of the GGUF file at `path`.

    Raises MissingInput if it is not a regular file, BadGGUF if it is not GGUF, damaged, or shorter than its header
    says.
    """
    if not path.exists():
        raise MissingInput(f"no such file: {path}")
    if not path.is_file():  # opening a pipe would block
        raise MissingInput(f"{path} is {'a folder' if path.is_dir() else 'not a regular file'}, not a GGUF file")
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 24:
            raise BadGGUF(f"{path.name} has {size} bytes; a GGUF header has at least 24")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _HeaderReader(path.name, data, size).read_all()


def read_leading_metadata(path: Path) -> dict[str, Value]:
    """Read the metadata at the start of the GGUF file at `path`, up to the vocabulary.

    This takes a small fraction of the time of `read_header`. Raises OSError or BadGGUF.
    """
    with path.open("rb") as file:
        return parse_leading_metadata(path.name, file.read(START_BYTES))


def parse_leading_metadata(name: str, data: bytes) -> dict[str, Value]:
    """Parse the metadata entries that are complete in `data`, the first bytes of the GGUF file `name`.

    Entries that extend past the end of `data` are left out. Raises BadGGUF if `data` does not start a GGUF file.
    """
    reader = _HeaderReader(name, data, len(data))
    _, n_keys = reader.read_counts()
    metadata: dict[str, Value] = {}
    with suppress(BadGGUF):  # raised by the first entry that is not complete in `data`
        for _ in range(n_keys):
            key = reader.read_string()
            metadata[key] = reader.read_value(reader.read_number("I"))
    return metadata


class _HeaderReader:
    """A cursor over the header that only moves forward, never past the end of the data."""

    def __init__(self, name: str, data: mmap.mmap | bytes, size: int) -> None:
        self.name, self.data, self.size, self.offset = name, data, size, 0
        self.n_values = self.version = 0  # array elements so far, for the limit

    def read_counts(self) -> tuple[int, int]:
        """Skip magic and version; return the number of tensors and of metadata keys."""
        if self.data[:4] != b"GGUF":
            raise BadGGUF(f"{self.name} is not a GGUF file (it begins with {self.data[:4]!r})")
        self.offset = 4
        self.version = self.read_number("I")
        if self.version and not self.version & 0xFFFF:
            raise BadGGUF(f"{self.name} is a big-endian GGUF file, for machines such as IBM Z", _BIG_ENDIAN)
        if self.version not in (2, 3):
            hint = "get a newer file, or make it again from the checkpoint with `qwenctl quantize`"
            raise BadGGUF(f"{self.name} is GGUF version {self.version}; versions 2 and 3 can be read", hint)
        return self.read_count("tensors", _MAX_TENSORS), self.read_count("metadata keys", _MAX_KEYS)

    def read_all(self) -> GGUFHeader:
        """Read the whole header, and check that all tensors are inside the file. Raises BadGGUF."""
        n_tensors, n_keys = self.read_counts()
        metadata = {self.read_string(): self.read_value(self.read_number("I")) for _ in range(n_keys)}
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise BadGGUF(f"{self.name}: general.alignment is {alignment!r}, not a multiple of 8")
        infos = [self.read_tensor_info() for _ in range(n_tensors)]
        # The data section starts at the next multiple of the alignment; tensor offsets are relative to it.
        data_offset = -(-self.offset // alignment) * alignment
        for info in infos:
            end = data_offset + info.offset + info.n_bytes
            if info.offset % alignment or end > self.size:
                raise BadGGUF(
                    f"{self.name} ends at {self.size:,} bytes, but its tensor {info.name!r} ends at {end:,}",
                    "the file is incomplete or damaged: download it again, or make it again with `qwenctl quantize`",
                )
        return GGUFHeader(self.version, metadata, tuple(infos), data_offset, self.size)

    def advance(self, n_bytes: int) -> int:
        """Move over `n_bytes` and return the offset of the first. Raises BadGGUF past the end."""
        start, self.offset = self.offset, self.offset + n_bytes
        if n_bytes < 0 or self.offset > self.size:
            raise BadGGUF(f"{self.name} ends inside its header, at {self.size:,} bytes", "the file is incomplete")
        return start

    def read_number(self, code: str) -> int:
        """Read a scalar with the struct format `code`; float and bool codes return those types."""
        value: int = struct.unpack_from("<" + code, self.data, self.advance(struct.calcsize("<" + code)))[0]
        return value

    def read_count(self, label: str, limit: int) -> int:
        """Read a count of `label`, which must not exceed `limit` or the file size (each item takes a byte or more)."""
        number = self.read_number("Q")
        if number > min(limit, self.size):
            raise BadGGUF(f"{self.name} claims {number:,} {label}")
        return number

    def read_string(self) -> str:
        """Read a length and as many bytes of UTF-8; invalid bytes are replaced."""
        length = self.read_number("Q")
        if length > min(self.size, _MAX_TEXT_BYTES):
            raise BadGGUF(f"{self.name} has a text of {length:,} bytes")
        start = self.advance(length)
        return self.data[start : start + length].decode("utf-8", "replace")

    def read_strings(self, count: int) -> tuple[str, ...]:
        """Read `count` consecutive strings; inlined because calling `read_string` for a vocabulary is too slow."""
        # Attributes are read once and written back once, because a vocabulary with its merges is half a million
        # strings. The checks are those of `read_string`: length and end must be inside the file.
        data, at, last = self.data, self.offset, self.size - 8
        strings = []
        for _ in range(count):
            start = at + 8
            length: int = _UNPACK_LENGTH(data, at)[0] if at <= last else 0
            at = start + length
            if length > _MAX_TEXT_BYTES or at > self.size:
                self.offset = start - 8
                self.read_string()  # raises the error for this string
            strings.append(str(data[start:at], "utf-8", "replace"))
        self.offset = at
        return tuple(strings)

    def read_value(self, value_type: int) -> Value:
        """Read a metadata value of the GGUF type `value_type`."""
        if value_type == _STRING:
            return self.read_string()
        if value_type == _ARRAY:
            return self.read_array(self.read_number("I"))
        code = _FORMATS.get(value_type)
        if code is None:
            raise BadGGUF(f"{self.name} has a metadata value of unknown type {value_type}")
        scalar: Scalar = self.read_number(code)
        return scalar

    def read_array(self, value_type: int) -> tuple[Scalar, ...]:
        """Read an array of strings or scalars; arrays of arrays are rejected, as no model has them."""
        length = self.read_number("Q")
        # An element takes at least one byte. The sum over all arrays is limited as well, because each element becomes
        # a Python object that is larger than its bytes.
        self.n_values += length
        if length > self.size - self.offset or self.n_values > _MAX_VALUES:
            raise BadGGUF(f"{self.name} has an array of {length:,} values")
        if value_type == _STRING:
            return self.read_strings(length)
        code = _FORMATS.get(value_type)
        if code is None:
            raise BadGGUF(f"{self.name} has an array of unknown type {value_type}")
        start = self.advance(length * struct.calcsize("<" + code))
        return struct.unpack_from(f"<{length}{code}", self.data, start)

    def read_tensor_info(self) -> TensorInfo:
        """Read a tensor info and compute its size in bytes."""
        name, n_dimensions = self.read_string(), self.read_number("I")
        if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
            raise BadGGUF(f"{self.name}: tensor {name!r} has {n_dimensions} dimensions")
        shape = tuple(self.read_number("Q") for _ in range(n_dimensions))
        ggml_type, offset = TYPES_BY_ID.get(type_id := self.read_number("I")), self.read_number("Q")
        if type_id in FORK_TYPES:
            raise BadGGUF(
                f"{self.name}: tensor {name!r} has the type {FORK_TYPES[type_id]} of ik_llama.cpp, a fork of llama.cpp;"
                " llama.cpp cannot load it",
                "use another quantization: `qwenctl ls OWNER/NAME` lists a repository's, and which are of the fork",
            )
        if ggml_type is None:
            raise BadGGUF(
                f"{self.name}: tensor {name!r} has the ggml type {type_id}, which this version does not support",
                next((hint for ids, hint in _OTHER_TYPES if type_id in ids), ""),
            )
        # No type packs 32 weights into a byte, so a tensor with more elements than that cannot be in the file.
        elements = math.prod(shape)
        if not all(shape) or shape[0] % ggml_type.block_elements or elements > self.size * 32:
            raise BadGGUF(f"{self.name}: tensor {name!r} of type {ggml_type.name} has the impossible shape {shape}")
        return TensorInfo(name, shape, ggml_type.name, offset, ggml_type.row_bytes(shape[0]) * (elements // shape[0]))
