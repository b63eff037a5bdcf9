"""Find the mmproj file (vision encoder) that belongs to a model, and check it before the engine loads it.

The path of a model file comes in, the path of an mmproj file goes out. Only headers are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import QuantizeError
from quantize.gguf_header import read_header, read_leading_metadata
from qwenctl.errors import ExitCode, QwenctlError, from_quantize
from qwenctl.models.gguf_check import split_files

_PROJECTOR = "qwen3vl_merger"  # the projector type of Qwen3.5 in llama.cpp
_PREFERRED_DTYPES = ("F16", "BF16", "F32")  # the types that are published; their quality is nearly the same


@dataclass(frozen=True)
class _Mmproj:
    path: Path
    name: str  # of the model, from its metadata
    projection_dim: object  # must equal the text model's embedding length


def find_mmproj(model: Path) -> Path | None:
    """Find the mmproj file for `model`, in its folder or the one above; None if there is none.

    Its projection must have the model's width. A file with the same model name is preferred; in the folder above, only
    such a file counts unless `model` is split. Raises QwenctlError if the choice is ambiguous.
    """
    metadata = _read_metadata(model)
    name, projection_dim = (
        _text(metadata, "general.name"),
        metadata.get(f"{metadata.get('general.architecture')}.embedding_length"),
    )
    is_split = len(split_files(model)) > 1  # publishers put the files of a split model into a folder of their own
    for folder in (model.parent, model.parent.parent):
        candidates = [file for file in _find_mmproj_files(folder) if file.projection_dim == projection_dim]
        matches = [file for file in candidates if name and file.name == name]
        if not matches and (folder == model.parent or is_split):
            matches = candidates
        if len({file.name for file in matches}) > 1:
            raise QwenctlError(f"several mmproj files match {model.name}: choose one", f"--mmproj {matches[0].path}")
        if matches:
            return min(matches, key=_dtype_rank).path
    return None


def check_mmproj(path: Path) -> Path:
    """Return `path` if it is an mmproj file of a Qwen3.5 model. Raises QwenctlError if it is not."""
    if not path.is_file():
        raise QwenctlError(f"no such file: {path}", "`qwenctl quantize CHECKPOINT_FOLDER` makes one", ExitCode.NO_INPUT)
    try:
        metadata = read_header(path).metadata
    except QuantizeError as error:
        raise from_quantize(error) from error
    if metadata.get("clip.projector_type") != _PROJECTOR:
        raise QwenctlError(f"{path.name} is not an mmproj file of a Qwen3.5 model", "--mmproj FILE", ExitCode.BAD_DATA)
    return path


def _find_mmproj_files(folder: Path) -> Iterator[_Mmproj]:
    """Yield the Qwen3.5 mmproj files in a folder."""
    for path in sorted(folder.glob("*mmproj*.gguf")):
        metadata = _read_metadata(path)
        if metadata.get("clip.projector_type") == _PROJECTOR:
            yield _Mmproj(path, _text(metadata, "general.name"), metadata.get("clip.vision.projection_dim"))


def _read_metadata(path: Path) -> Mapping[str, object]:
    """Read the metadata at the start of the header; empty if the file cannot be read, which is not an error here."""
    try:
        return read_leading_metadata(path)
    except (QuantizeError, OSError):
        return {}


def _text(metadata: Mapping[str, object], key: str) -> str:
    return str(metadata.get(key) or "")


def _dtype_rank(file: _Mmproj) -> int:
    """Position of the type in the file name among the preferred types; lower is better."""
    ranks = [rank for rank, dtype in enumerate(_PREFERRED_DTYPES) if file.path.stem.endswith(f"-{dtype}")]
    return next(iter(ranks), len(_PREFERRED_DTYPES))
