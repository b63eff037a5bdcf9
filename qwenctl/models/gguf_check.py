"""Check that a file is a runnable model before the engine loads it, because libllama aborts on some damaged headers.

A path comes in; notes go out, or a QwenctlError that says what the file is instead. Only headers are read, those
of every split.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from quantize.errors import QuantizeError
from quantize.gguf_header import GGUFHeader, read_header
from quantize.qwen35.model_config import MAX_EXPERTS, MAX_LAYERS
from qwenctl.errors import ExitCode, QwenctlError, command_line, from_quantize, quote
from qwenctl.models.gguf_kind import read_kind
from qwenctl.models.mtp_block import find_incomplete_mtp

ARCHITECTURES = ("qwen35", "qwen35moe")
_SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
# For the fingerprint: 4 MiB are read of each file, however large it is.
_SAMPLES, _SAMPLE_BYTES = 256, 1 << 14
_DAMAGED = "the file is damaged or hostile: download it again, or make it with `qwenctl quantize`"
# Frequent contents of files that should be models, by first bytes: pattern, description, hint.
_NOT_A_MODEL = (
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer", "git lfs pull"),
    (
        re.compile(rb"\s*<(!doctype\s|html|head|\?xml)", re.IGNORECASE),
        "an HTML page",
        "download the file, not its page",
    ),
    (re.compile(rb"\0+\Z"), "filled with zeros", "it is incomplete: download or create it again"),
    (re.compile(rb"PK\x03\x04.{26,90}data\.pkl", re.DOTALL), "PyTorch weights", "qwenctl quantize CHECKPOINT_FOLDER"),
    (re.compile(rb"PK\x03\x04"), "a zip archive", "unpack it first"),
    (re.compile(rb"\x1f\x8b"), "compressed with gzip", "unpack it first"),
    (re.compile(rb".{8}\{\s*\"", re.DOTALL), "a safetensors file", "qwenctl quantize CHECKPOINT_FOLDER"),
    (re.compile(rb"(tjgg|lmgg|fmgg|algg)"), "in llama.cpp's format of before 2023-08", "get the model as GGUF"),
)
# GGUF files that are not text models, by architecture or type.
_OTHER_FILES = {
    "clip": "the vision part (mmproj) of a model: use the text model next to it",
    "imatrix": "an importance matrix: use it with `qwenctl quantize --imatrix`",
}


def check_model_file(path: Path) -> tuple[str, ...]:
    """Check that `path` is a complete GGUF file of a Qwen3.5 model, with all its splits next to it.

    Returns what the user should know of a file that can be used nevertheless. Raises QwenctlError.
    """
    _check_exists(path)
    _check_magic(path)
    header = _read_header(path)
    count = _read_integer(header.metadata, "split.count", path.name, default=1)
    number = _read_integer(header.metadata, "split.no", path.name, default=0)
    if number > 0:
        first = _split_path(path, 1, count)
        raise QwenctlError(f"{path.name} is split {number + 1} of {count}", f"give the first part: -m {quote(first)}")
    _check_architecture(path.name, header.metadata)
    _check_maker(path.name, header)
    _check_values(path.name, header)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    for split in range(2, count + 1):
        other = _split_path(path, split, count)
        if not other.is_file():
            raise QwenctlError(
                f"split {split} of {count} is missing next to {path.name}",
                f"put {other.name} into {path.parent}",
                ExitCode.NO_INPUT,
            )
        shapes.update((tensor.name, tensor.shape) for tensor in _read_header(other).tensors)
    block = find_incomplete_mtp(header.metadata, shapes, count)
    return () if block is None else (f"{path.name}: {block.note}",)


def model_fingerprint(path: Path) -> str:
    """A fast hash (SHA-256, hex) of a model file and its splits: of their sizes and of samples spread over them.

    Models that differ in more than a few weights have different fingerprints. It does not protect against forgery.
    """
    digest = hashlib.sha256()
    for file_path in split_files(path):
        size = file_path.stat().st_size
        digest.update(f"{size} ".encode())
        with file_path.open("rb") as file:
            # Evenly spaced from the first bytes (the header) to the last.
            for sample in range(_SAMPLES):
                file.seek(sample * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def split_files(path: Path) -> list[Path]:
    """All split files of the model at `path`, in order, derived from its name; they need not exist."""
    match = _SPLIT_NAME.fullmatch(path.name)
    count = int(match.group(3)) if match else 1
    return [_split_path(path, number, count) for number in range(1, count + 1)] if count > 1 else [path]


def _check_exists(path: Path) -> None:
    """Raise QwenctlError with suggestions if `path` is a folder or does not exist."""
    if path.is_dir():
        inside = sorted(file for file in path.glob("*.gguf") if read_kind(file) == "model")
        hint = f"-m {quote(inside[0])}" if inside else command_line("quantize", path)
        raise QwenctlError(f"{path} is a folder, not a GGUF file", hint, ExitCode.NO_INPUT)
    if path.exists():
        return
    folder = path.parent
    names = [file.name for file in folder.glob("*.gguf") if read_kind(file) == "model"] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or sorted(names)[:3]
    hint = f"available: {', '.join(near)}" if near else "`qwenctl quantize CHECKPOINT_FOLDER` makes one"
    raise QwenctlError(f"no such file: {path}", hint, ExitCode.NO_INPUT)


def _check_magic(path: Path) -> None:
    """Raise QwenctlError that says what the file is, if it does not start with "GGUF"."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[:4] == b"GGUF":
        return
    if not start:
        raise QwenctlError(f"{path.name} is empty, not GGUF", "download or create it again", ExitCode.BAD_DATA)
    for pattern, description, hint in _NOT_A_MODEL:
        if pattern.match(start):
            raise QwenctlError(f"{path.name} is {description}, not GGUF", hint, ExitCode.BAD_DATA)
    raise QwenctlError(
        f"{path.name} is not a GGUF file (it begins with {start[:4]!r})",
        "`qwenctl quantize CHECKPOINT_FOLDER` makes one from a checkpoint",
        ExitCode.BAD_DATA,
    )


def _read_header(path: Path) -> GGUFHeader:
    try:
        return read_header(path)
    except QuantizeError as error:
        raise from_quantize(error) from error


def _check_architecture(name: str, metadata: Mapping[str, object]) -> None:
    """Raise QwenctlError if the file is not a Qwen3.5 text model."""
    architecture = metadata.get("general.architecture", metadata.get("general.type"))
    if architecture in ARCHITECTURES:
        return
    hint = _OTHER_FILES.get(str(architecture), "Qwen3.5 models are qwen35 and qwen35moe")
    raise QwenctlError(f"{name}: architecture {architecture!r} is not Qwen3.5", hint, ExitCode.BAD_DATA)


def _check_maker(name: str, header: GGUFHeader) -> None:
    """Raise QwenctlError if Ollama's own engine made the file, whose keys and tensors llama.cpp does not know."""
    architecture = str(header.metadata["general.architecture"])
    sections = header.metadata.get(f"{architecture}.rope.dimension_sections")
    is_ollamas = (
        f"{architecture}.mrope_sections" in header.metadata
        or isinstance(header.metadata.get(f"{architecture}.attention.head_count_kv"), tuple)
        or (isinstance(sections, tuple) and len(sections) == 3)
        or any(tensor.name.startswith(("v.", "mtp.")) for tensor in header.tensors)
    )
    if is_ollamas:
        raise QwenctlError(
            f"{name} was made by Ollama for itself; llama.cpp cannot load it",
            "`qwenctl pull qwen3.5-35b-a3b`, or another size, gets the model in a form that it can",
            ExitCode.BAD_DATA,
        )


def _check_values(name: str, header: GGUFHeader) -> None:
    """Check the values for which llama.cpp aborts the process instead of rejecting the file. Raises QwenctlError."""
    metadata = header.metadata
    architecture = str(metadata["general.architecture"])
    _check_range(name, metadata, f"{architecture}.block_count", MAX_LAYERS)
    if architecture == "qwen35moe":
        experts = _check_range(name, metadata, f"{architecture}.expert_count", MAX_EXPERTS)
        used = _check_range(name, metadata, f"{architecture}.expert_used_count", MAX_EXPERTS)
        if used > experts:
            raise _unsafe_error(f"{name}: expert_used_count {used} > expert_count {experts}")
    # llama.cpp builds a map from text to token, and aborts if it has fewer entries than there are tokens.
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    if isinstance(tokens, tuple) and len(set(tokens)) < len(tokens):
        raise _unsafe_error(f"{name}: the vocabulary has {len(tokens) - len(set(tokens)):,} duplicate token(s)")
    integer = next(
        (
            tensor.name
            for tensor in header.tensors
            if tensor.type_name.startswith("I") and tensor.type_name[1].isdigit()
        ),
        "",
    )
    if integer:
        raise _unsafe_error(f"{name}: tensor {integer!r} holds integers, not weights")


def _check_range(name: str, metadata: Mapping[str, object], key: str, maximum: int) -> int:
    """Read an integer from 1 to `maximum`. Raises QwenctlError."""
    value = _read_integer(metadata, key, name, default=0)
    if not 1 <= value <= maximum:
        raise _unsafe_error(f"{name}: {key.partition('.')[2]} is {value:,}; it must be from 1 to {maximum:,}")
    return value


def _read_integer(metadata: Mapping[str, object], key: str, name: str, default: int) -> int:
    """Read an integer metadata value. Raises QwenctlError for other types."""
    value = metadata.get(key, default)
    if not isinstance(value, int):
        raise _unsafe_error(f"{name}: {key} is {value!r:.40}, not a whole number")
    return value


def _unsafe_error(message: str) -> QwenctlError:
    return QwenctlError(message, _DAMAGED, ExitCode.BAD_DATA)


def _split_path(path: Path, number: int, count: int) -> Path:
    """The path of split `number` (from 1) of `count`, by llama.cpp's naming convention."""
    match = _SPLIT_NAME.fullmatch(path.name)
    base = match.group(1) if match else path.stem
    return path.with_name(f"{base}-{number:05d}-of-{count:05d}.gguf")
