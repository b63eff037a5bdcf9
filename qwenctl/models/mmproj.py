"""Find the mmproj file (vision encoder) that belongs to a model, and check it before the engine loads it.

The path of a model file comes in, paths of mmproj files go out. Only headers are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import QuantizeError
from quantize.gguf_header import read_header, read_leading_metadata
from qwenctl.errors import ExitCode, QwenctlError, from_quantize
from qwenctl.models.gguf_check import split_files
from qwenctl.models.gguf_kind import kind_from_metadata, mmproj_rank

_PROJECTOR = "qwen3vl_merger"  # the projector type of Qwen3.5 in llama.cpp


@dataclass(frozen=True)
class _Mmproj:
    path: Path
    name: str  # of the model, from its metadata
    projection_dim: object  # must equal the text model's embedding length


def find_mmproj(model: Path) -> tuple[Path, ...]:
    """Find the mmproj files that may belong to `model`, in its folder or the one above: usually one, or none.

    Their projection must have the model's width. A file with the same model name is preferred; in the folder above,
    only such a file counts unless `model` is split. If files of several models remain, there is one path for each.
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
        if matches:
            best: dict[str, _Mmproj] = {}
            for file in sorted(matches, key=lambda file: mmproj_rank(file.path.name)):
                best.setdefault(file.name, file)
            return tuple(sorted(file.path for file in best.values()))
    return ()


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
    """Yield the Qwen3.5 mmproj files in a folder, whatever their names."""
    for path in sorted(path for path in folder.glob("*") if path.suffix.lower() == ".gguf" and path.is_file()):
        metadata = _read_metadata(path)
        if kind_from_metadata(metadata) == "mmproj" and metadata.get("clip.projector_type") == _PROJECTOR:
            yield _Mmproj(path, _text(metadata, "general.name"), metadata.get("clip.vision.projection_dim"))


def _read_metadata(path: Path) -> Mapping[str, object]:
    """Read the metadata at the start of the header; empty if the file cannot be read, which is not an error here."""
    try:
        return read_leading_metadata(path)
    except (QuantizeError, OSError):
        return {}


def _text(metadata: Mapping[str, object], key: str) -> str:
    return str(metadata.get(key) or "")
