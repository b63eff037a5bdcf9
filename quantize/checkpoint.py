"""A published checkpoint: config.json and the headers of its safetensors shards.

A folder comes in; a `Checkpoint` goes out, which says for every tensor its type, shape and the bytes of the file that
hold it. No weight is read here. Every name, offset and length of the headers is checked against the files before it is
believed, and no shard outside the folder is ever opened. Format: the README of the safetensors project.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from quantize.errors import BadCheckpoint, MissingInput

DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_INDEX = "model.safetensors.index.json"
_FETCH_AGAIN = "the download is incomplete or damaged: download this file again"


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of the checkpoint: `n_bytes` at `offset` of the file `path`, row-major, little endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder. `repository` and `revision` are "" where the folder does not tell them."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]
    repository: str
    revision: str

    @property
    def name(self) -> str:
        """The model's name: the last part of its repository, else the folder's name."""
        return self.repository.rsplit("/", 1)[-1] or self.folder.resolve().name or "model"


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises MissingInput or BadCheckpoint."""
    if not folder.is_dir():
        raise _no_folder(folder)
    config = read_json(folder / "config.json")
    tensors: dict[str, SourceTensor] = {}
    for path, promised in _shards(folder).items():
        held = {tensor.name: tensor for tensor in _read_shard(path)}
        lost = sorted(promised - held.keys())
        if lost:
            raise BadCheckpoint(f"{path.name} lacks {_names(lost)}, which {_INDEX} lists in it", _FETCH_AGAIN)
        tensors.update({name: held[name] for name in promised} if promised else held)
    repository, revision = _origin(folder)
    return Checkpoint(folder, config, tensors, repository, revision)


def _no_folder(path: Path) -> MissingInput:
    hint = "give the folder with config.json and the safetensors files"
    if not path.exists():
        is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path))
        return MissingInput(
            f"no such folder: {path}", f"hf download {path} --local-dir {path.name}" if is_repository else hint
        )
    what = "a GGUF file, which is quantized already" if path.suffix == ".gguf" else "a file"
    return MissingInput(f"{path} is {what}, not a checkpoint folder", hint)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path` of a checkpoint. Raises MissingInput or BadCheckpoint."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingInput(
            f"{path.parent} has no {path.name}", "a checkpoint folder has it next to the weights"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path.name} is not JSON: {error}", _FETCH_AGAIN) from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path.name} does not hold a JSON object", _FETCH_AGAIN)
    return value


def _shards(folder: Path) -> dict[Path, set[str]]:
    """The shard files, each with the names that the index promises in it (none promised without an index)."""
    if not (folder / _INDEX).exists():
        single = sorted(folder.glob("*.safetensors"))
        if not single:
            raise MissingInput(f"{folder} has no safetensors file", "is the download complete?")
        if len(single) > 1:
            raise MissingInput(f"{folder} has {len(single)} safetensors files but no {_INDEX}", _FETCH_AGAIN)
        return {single[0]: set()}
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(f"{_INDEX} has no weight_map", _FETCH_AGAIN)
    promised: dict[str, set[str]] = {}
    for name, file_name in weight_map.items():
        promised.setdefault(str(file_name), set()).add(name)
    shards = {folder / _checked_name(file_name): names for file_name, names in promised.items()}
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise MissingInput(f"{folder} lacks {_names(missing)}, named in {_INDEX}", "download the missing shards")
    return shards


def _checked_name(file_name: str) -> str:
    """`file_name` if it is a plain relative path that stays in the folder."""
    parts = PurePosixPath(file_name).parts
    if not parts or parts[0] == "/" or ".." in parts or any(character in file_name for character in "\\:\0"):
        raise BadCheckpoint(f"{_INDEX} names {file_name!r}, which is outside the folder", "get it from its publisher")
    return file_name


def _read_shard(path: Path) -> list[SourceTensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise BadCheckpoint(f"{path.name} is not a safetensors file ({_looks_like(start, size)})", _FETCH_AGAIN)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = [_source(path, name, entry, 8 + length) for name, entry in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadCheckpoint(f"{path.name} has a damaged header ({error})", _FETCH_AGAIN) from error
    at = 8 + length
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset != at:
            raise BadCheckpoint(
                f"{path.name}: {tensor.name} does not start where the previous tensor ends", _FETCH_AGAIN
            )
        at += tensor.n_bytes
    if at != size:
        raise BadCheckpoint(f"{path.name} has {size:,} bytes, its header says {at:,}", _FETCH_AGAIN)
    return tensors


def _source(path: Path, name: str, entry: Mapping[str, Any], data_start: int) -> SourceTensor:
    dtype, shape = entry["dtype"], tuple(map(int, entry["shape"]))
    begin, end = map(int, entry["data_offsets"])
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"{name} has the unknown type {dtype}")
    if begin < 0 or min(shape, default=0) < 0 or end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise ValueError(f"{name} has {end - begin} bytes for the shape {list(shape)} of {dtype}")
    return SourceTensor(name, dtype, shape, path, data_start + begin, end - begin)


def _looks_like(start: bytes, size: int) -> str:
    if start.startswith(b"version "):
        return "it is a Git LFS pointer"
    if start.lstrip()[:1] == b"<":
        return "it is an HTML page"
    return f"{size:,} bytes"


def _origin(folder: Path) -> tuple[str, str]:
    """Repository and commit, as the Hugging Face tools leave them behind.

    They are in the path of a cache, `models--ORG--NAME/snapshots/COMMIT`; of a plain folder only the commit is known,
    from the first line of the metadata that a download keeps there.
    """
    match = re.search(r"/models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})$", folder.resolve().as_posix())
    if match:
        return f"{match[1]}/{match[2]}", match[3]
    note = folder / ".cache/huggingface/download/config.json.metadata"
    first = note.read_text(errors="replace").split("\n", 1)[0] if note.is_file() else ""
    return "", first if re.fullmatch("[0-9a-f]{40}", first) else ""


def _names(names: list[str]) -> str:
    """Up to three names, and how many more."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
