"""Read a published checkpoint: config.json and the headers of its safetensors shards.

A folder comes in; a `Checkpoint` goes out, with the dtype, shape and file offset of every tensor. No weights are read
here. Every name, offset and length in the headers is validated against the files, and no shard outside the folder is
ever opened. Format: the README of the safetensors project.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from quantize.errors import BadCheckpoint, MissingInput
from quantize.foreign_json import BadJSON, parse_object, read_json_object

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_DTYPE_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6} | {name: 8 * size for name, size in DTYPE_BYTES.items()}
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_INDEX_NAME = "model.safetensors.index.json"
_COMPARED_BYTES = 1 << 22
_SAVE_AS_SAFETENSORS = "save it with transformers as safetensors (save_pretrained), or get a repository that has them"
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
    formats: frozenset[str] = frozenset()  # "format" in the shards' metadata: who wrote them, such as "pt" or "mlx"
    notes: tuple[str, ...] = ()  # what was left out, one line each

    @property
    def name(self) -> str:
        """The model's name: the last part of the repository name, or else the folder name."""
        # The bytes of a folder's name need not be text, as a name in the output must be.
        folder = os.fsencode(self.folder.resolve().name).decode("utf-8", "replace")
        return self.repository.rsplit("/", 1)[-1] or folder or "model"


def open_checkpoint(folder: Path, *, headers_only: bool = False) -> Checkpoint:
    """Read the checkpoint in `folder`; with `headers_only`, the shards hold no weights that could be compared.

    Raises MissingInput or BadCheckpoint.
    """
    if not folder.is_dir():
        raise _missing_folder_error(folder)
    if not (folder / "config.json").exists() and (folder / "adapter_config.json").exists():
        raise adapter_error(folder)
    config = read_json(folder / "config.json")
    placed, notes = _find_shards(folder)
    tensors: dict[str, SourceTensor] = {}
    formats = set()
    for path, expected_names in placed.items():
        shard = _read_shard(path)
        present = {tensor.name: tensor for tensor in shard.tensors}
        missing = sorted(expected_names - present.keys())
        if missing:
            raise BadCheckpoint(
                f"{path.name} lacks {list_names(missing)}, which {_INDEX_NAME} lists in it", _FETCH_AGAIN
            )
        # As in transformers, tensors that the index does not list are part of the checkpoint too.
        for tensor in shard.tensors:
            if twin := tensors.get(tensor.name):
                notes.append(_compare_twins(twin, tensor, headers_only=headers_only))
            if twin is None or tensor.name in expected_names:
                tensors[tensor.name] = tensor
        formats.add(shard.format)
    repository, revision = _read_origin(folder)
    return Checkpoint(folder, config, tensors, repository, revision, frozenset(formats), tuple(notes))


def _compare_twins(first: SourceTensor, second: SourceTensor, *, headers_only: bool) -> str:
    """The note about a tensor that two shards have. Raises BadCheckpoint unless both are equal."""
    names = f"{first.name} is in both {first.path.name} and {second.path.name}"
    if headers_only:
        raise BadCheckpoint(names, "download the checkpoint and quantize its folder, so that both can be compared")
    if not have_equal_weights(first, second):
        raise BadCheckpoint(
            f"{names}, with different weights",
            f"remove the shard that does not belong to it, and correct {_INDEX_NAME}",
        )
    return f"{names}, with equal weights: one is left out"


def adapter_error(name: Path | str) -> BadCheckpoint:
    """The error for a LoRA adapter called `name`."""
    return BadCheckpoint(
        f"{name} is a LoRA adapter, not a model",
        "merge it into its base model (peft: merge_and_unload, save_pretrained), and quantize that",
    )


def have_equal_weights(first: SourceTensor, second: SourceTensor) -> bool:
    """Whether both tensors have the same dtype, shape and bytes; reads both files. Raises OSError."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    with first.path.open("rb") as one, second.path.open("rb") as other:
        one.seek(first.offset)
        other.seek(second.offset)
        left = first.n_bytes
        while left:
            size = min(left, _COMPARED_BYTES)
            if one.read(size) != other.read(size):
                return False
            left -= size
    return True


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
        return read_json_object(path)
    except FileNotFoundError as error:
        raise MissingInput(
            f"{path.parent} has no {path.name}", "a checkpoint folder has it next to the weights"
        ) from error
    except BadJSON as error:
        raise BadCheckpoint(f"{path.name} is not JSON: {error}", _FETCH_AGAIN) from error


def _find_shards(folder: Path) -> tuple[dict[Path, set[str]], list[str]]:
    """Map each shard to the tensor names that the index lists in it (an empty set without an index); and notes.

    As in transformers, other safetensors files in the folder are no part of the checkpoint.
    """
    present = sorted(folder.glob("*.safetensors"))
    shards = _read_index(folder) if (folder / _INDEX_NAME).exists() else {_single_shard(folder, present): set[str]()}
    single = folder / "model.safetensors"
    if single in present and single not in shards:
        raise BadCheckpoint(
            f"{folder} has model.safetensors and a {_INDEX_NAME} that does not name it",
            "remove the one that does not belong to config.json",
        )
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise MissingInput(
            f"{folder} lacks {list_names(missing)}, named in {_INDEX_NAME}", "download the missing shards"
        )
    strays = [path.name for path in present if path not in shards]
    return shards, [f"left out: {list_names(strays)}, no part of the model's weights"] if strays else []


def _single_shard(folder: Path, present: list[Path]) -> Path:
    """The only file with weights of a checkpoint without an index. Raises MissingInput or BadCheckpoint."""
    models = [path for path in present if path.name.startswith("model")]
    if folder / "model.safetensors" in present:
        return folder / "model.safetensors"
    if not present:
        raise _no_weights_error(folder)
    if len(models) > 1 or any(re.search(r"-of-0*([2-9]|1\d)\d*\.", path.name) for path in models):
        raise MissingInput(
            f"{folder} has {list_names([path.name for path in models])}, but no {_INDEX_NAME}",
            f"download {_INDEX_NAME} too",
        )
    if models or len(present) == 1:
        weights = (models or present)[0]
        if not weights.name.startswith("adapter_model"):
            return weights
        raise adapter_error(folder)
    raise MissingInput(
        f"{folder} has {list_names([path.name for path in present])}, but no model.safetensors",
        "download the files whose names begin with model",
    )


def _no_weights_error(folder: Path) -> MissingInput:
    """The error for a folder without safetensors files, which says what weights it has instead."""
    for pattern, kind, hint in (
        ("*.gguf", "GGUF files, which are quantized already", "qwenctl chat -m {path}"),
        ("*.bin", "weights in PyTorch's format ({name})", _SAVE_AS_SAFETENSORS),
        ("*.pt*", "weights in PyTorch's format ({name})", _SAVE_AS_SAFETENSORS),
    ):
        if found := sorted(folder.glob(pattern)):
            text = kind.format(name=found[0].name)
            return MissingInput(f"{folder} has no safetensors file, but {text}", hint.format(path=found[0]))
    return MissingInput(f"{folder} has no safetensors file", "is the download complete?")


def _read_index(folder: Path) -> dict[Path, set[str]]:
    """The tensor names of each shard by the index. Raises BadCheckpoint."""
    weight_map = read_json(folder / _INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(f"{_INDEX_NAME} has no weight_map", _FETCH_AGAIN)
    names_by_file: dict[str, set[str]] = {}
    for name, file_name in weight_map.items():
        names_by_file.setdefault(str(file_name), set()).add(name)
    return {folder / _check_file_name(file_name): names for file_name, names in names_by_file.items()}


def _check_file_name(file_name: str) -> str:
    """Return `file_name` if it is a plain relative path inside the folder. Raises BadCheckpoint otherwise."""
    parts = PurePosixPath(file_name).parts
    if not parts or parts[0] == "/" or ".." in parts or any(character in file_name for character in "\\:\0"):
        raise BadCheckpoint(
            f"{_INDEX_NAME} names {file_name!r}, which is outside the folder", "get it from its publisher"
        )
    return file_name


class _Shard(NamedTuple):
    tensors: list[SourceTensor]
    format: str


def _read_shard(path: Path) -> _Shard:
    """Read the header of a shard and check that its tensors fill the file exactly. Raises BadCheckpoint."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")  # of the JSON header that follows
        if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise BadCheckpoint(f"{path.name} is not a safetensors file ({_describe_start(start, size)})", _FETCH_AGAIN)
        try:
            header = parse_object(file.read(length), _MAX_HEADER_BYTES)
            metadata = header.pop("__metadata__", None)  # free-form text, not a tensor
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
    return _Shard(tensors, str(metadata.get("format", "")) if isinstance(metadata, dict) else "")


def _parse_tensor_entry(path: Path, name: str, entry: Mapping[str, Any], data_start: int) -> SourceTensor:
    """Parse and validate a header entry. Raises ValueError, KeyError or TypeError."""
    dtype, shape = entry["dtype"], tuple(map(int, entry["shape"]))
    start, end = map(int, entry["data_offsets"])
    if dtype not in _DTYPE_BITS:
        raise ValueError(f"{name} has the unknown type {dtype}")
    if start < 0 or min(shape, default=0) < 0 or 8 * (end - start) != math.prod(shape) * _DTYPE_BITS[dtype]:
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


def list_names(names: Sequence[str]) -> str:
    """Join up to three names; the rest are only counted."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
