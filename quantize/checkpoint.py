"""Read a published checkpoint: config.json and the headers of its safetensors shards.

A folder comes in; a `Checkpoint` goes out, with the dtype, shape and file offset of every tensor. No weights are read
here. Every name, offset and length in the headers is validated against the files, and no shard outside the folder is
ever opened. Format: the README of the safetensors project.
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
_INDEX_NAME = "model.safetensors.index.json"
_FETCH_AGAIN = "the download is incomplete or damaged: download this file again"


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A checkpoint tensor: `n_bytes` at `offset` in the file `path`; `shape` and data are row-major, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder. `repository` and `revision` are "" if they cannot be derived from the folder."""

    folder: Path
    config: Mapping[str, Any]  # config.json
    tensors: Mapping[str, SourceTensor]  # by name
    repository: str  # OWNER/NAME
    revision: str  # a commit

    @property
    def name(self) -> str:
        """The model's name: the last part of the repository name, or else the folder name."""
        return self.repository.rsplit("/", 1)[-1] or self.folder.resolve().name or "model"


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`. Raises MissingInput or BadCheckpoint."""
    if not folder.is_dir():
        raise _missing_folder_error(folder)
    config = read_json(folder / "config.json")
    tensors: dict[str, SourceTensor] = {}
    for path, expected_names in _find_shards(folder).items():
        present = {tensor.name: tensor for tensor in _read_shard(path)}
        missing = sorted(expected_names - present.keys())
        if missing:
            raise BadCheckpoint(
                f"{path.name} lacks {_list_names(missing)}, which {_INDEX_NAME} lists in it", _FETCH_AGAIN
            )
        # With an index, a shard contributes only the tensors that the index places in it.
        tensors.update({name: present[name] for name in expected_names} if expected_names else present)
    repository, revision = _read_origin(folder)
    return Checkpoint(folder, config, tensors, repository, revision)


def _missing_folder_error(path: Path) -> MissingInput:
    """The error for a path that is not a folder, with a hint for repository names and GGUF files."""
    hint = "give the folder with config.json and the safetensors files"
    if not path.exists():
        is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path))
        return MissingInput(
            f"no such folder: {path}", f"hf download {path} --local-dir {path.name}" if is_repository else hint
        )
    description = "a GGUF file, which is quantized already" if path.suffix == ".gguf" else "a file"
    return MissingInput(f"{path} is {description}, not a checkpoint folder", hint)


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in the checkpoint file `path`. Raises MissingInput or BadCheckpoint."""
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


def _find_shards(folder: Path) -> dict[Path, set[str]]:
    """Map each shard file to the tensor names that the index lists for it (an empty set if there is no index)."""
    if not (folder / _INDEX_NAME).exists():
        candidates = sorted(folder.glob("*.safetensors"))
        if not candidates:
            raise MissingInput(f"{folder} has no safetensors file", "is the download complete?")
        if len(candidates) > 1:
            raise MissingInput(f"{folder} has {len(candidates)} safetensors files but no {_INDEX_NAME}", _FETCH_AGAIN)
        return {candidates[0]: set()}
    weight_map = read_json(folder / _INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(f"{_INDEX_NAME} has no weight_map", _FETCH_AGAIN)
    names_by_file: dict[str, set[str]] = {}
    for name, file_name in weight_map.items():
        names_by_file.setdefault(str(file_name), set()).add(name)
    shards = {folder / _check_file_name(file_name): names for file_name, names in names_by_file.items()}
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise MissingInput(
            f"{folder} lacks {_list_names(missing)}, named in {_INDEX_NAME}", "download the missing shards"
        )
    return shards


def _check_file_name(file_name: str) -> str:
    """Return `file_name` if it is a plain relative path inside the folder. Raises BadCheckpoint otherwise."""
    parts = PurePosixPath(file_name).parts
    if not parts or parts[0] == "/" or ".." in parts or any(character in file_name for character in "\\:\0"):
        raise BadCheckpoint(
            f"{_INDEX_NAME} names {file_name!r}, which is outside the folder", "get it from its publisher"
        )
    return file_name


def _read_shard(path: Path) -> list[SourceTensor]:
    """Read the header of a shard and check that its tensors fill the file exactly. Raises BadCheckpoint."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")  # of the JSON header that follows
        if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise BadCheckpoint(f"{path.name} is not a safetensors file ({_describe_start(start, size)})", _FETCH_AGAIN)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)  # free-form text, not a tensor
            tensors = [_parse_tensor_entry(path, name, entry, 8 + length) for name, entry in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # any JSON is possible
            raise BadCheckpoint(f"{path.name} has a damaged header ({error})", _FETCH_AGAIN) from error
    # The tensors must cover the data section without gaps or overlaps, as the format demands.
    offset = 8 + length
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset != offset:
            raise BadCheckpoint(
                f"{path.name}: {tensor.name} does not start where the previous tensor ends", _FETCH_AGAIN
            )
        offset += tensor.n_bytes
    if offset != size:
        raise BadCheckpoint(f"{path.name} has {size:,} bytes, its header says {offset:,}", _FETCH_AGAIN)
    return tensors


def _parse_tensor_entry(path: Path, name: str, entry: Mapping[str, Any], data_start: int) -> SourceTensor:
    """Parse and validate a header entry. Raises ValueError, KeyError or TypeError."""
    dtype, shape = entry["dtype"], tuple(map(int, entry["shape"]))
    start, end = map(int, entry["data_offsets"])
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"{name} has the unknown type {dtype}")
    if start < 0 or min(shape, default=0) < 0 or end - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise ValueError(f"{name} has {end - start} bytes for the shape {list(shape)} of {dtype}")
    return SourceTensor(name, dtype, shape, path, data_start + start, end - start)


def _describe_start(start: bytes, size: int) -> str:
    """Describe what a file that is not safetensors probably is."""
    if start.startswith(b"version "):
        return "it is a Git LFS pointer"
    if start.lstrip()[:1] == b"<":
        return "it is an HTML page"
    return f"{size:,} bytes"


def _read_origin(folder: Path) -> tuple[str, str]:
    """Derive (repository, commit) from what the Hugging Face tools leave behind; "" for each if unknown.

    In a cache, the path `models--ORG--NAME/snapshots/COMMIT` contains both. In a plain download folder only the commit
    is known: it is the first line of the metadata file that `hf download` writes.
    """
    match = re.search(r"/models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})$", folder.resolve().as_posix())
    if match:
        return f"{match[1]}/{match[2]}", match[3]
    metadata_path = folder / ".cache/huggingface/download/config.json.metadata"
    first_line = metadata_path.read_text(errors="replace").split("\n", 1)[0] if metadata_path.is_file() else ""
    return "", first_line if re.fullmatch("[0-9a-f]{40}", first_line) else ""


def _list_names(names: list[str]) -> str:
    """Join up to three names; the rest are only counted."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
