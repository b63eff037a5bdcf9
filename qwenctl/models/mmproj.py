"""The file of a model's vision tower: found beside the model, and looked at before the engine sees it.

The paths of model files come in, the path of an mmproj file goes out. Headers are read, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import QuantizeError
from quantize.gguf_header import read_header, read_leading_metadata
from qwenctl.errors import ExitCode, QwenctlError, from_quantize
from qwenctl.models.gguf_check import split_files

_PROJECTOR = "qwen3vl_merger"  # of Qwen3.5; llama.cpp knows many more
_BEST_FIRST = ("F16", "BF16", "F32")  # as llama.cpp's users publish them; all of them are nearly the same


@dataclass(frozen=True)
class _Tower:
    path: Path
    name: str
    width: object


def mmproj_beside(model: Path) -> Path | None:
    """The mmproj file that goes with `model`: in its folder, or in the one above for a split model; None if none is.

    Of several the one of the same name. Raises QwenctlError if it cannot be told which one it is.
    """
    metadata = _metadata(model)
    name, width = (
        _text(metadata, "general.name"),
        metadata.get(f"{metadata.get('general.architecture')}.embedding_length"),
    )
    is_split = len(split_files(model)) > 1  # publishers put the files of a split model into a folder of their own
    for folder in (model.parent, model.parent.parent):
        towers = [tower for tower in _towers(folder) if tower.width == width]
        fitting = [tower for tower in towers if name and tower.name == name]
        if not fitting and (folder == model.parent or is_split):
            fitting = towers
        if len({tower.name for tower in fitting}) > 1:
            raise QwenctlError(f"several mmproj files match {model.name}: choose one", f"--mmproj {fitting[0].path}")
        if fitting:
            return min(fitting, key=_preference).path
    return None


def check_mmproj(path: Path) -> Path:
    """`path`, if it is an mmproj file of this family. Raises QwenctlError if it is not."""
    if not path.is_file():
        raise QwenctlError(f"no such file: {path}", "`qwenctl quantize CHECKPOINT_FOLDER` makes one", ExitCode.NO_INPUT)
    try:
        metadata = read_header(path).metadata
    except QuantizeError as error:
        raise from_quantize(error) from error
    if metadata.get("clip.projector_type") != _PROJECTOR:
        raise QwenctlError(f"{path.name} is not an mmproj file of a Qwen3.5 model", "--mmproj FILE", ExitCode.BAD_DATA)
    return path


def _towers(folder: Path) -> Iterator[_Tower]:
    for path in sorted(folder.glob("*mmproj*.gguf")):
        metadata = _metadata(path)
        if metadata.get("clip.projector_type") == _PROJECTOR:
            yield _Tower(path, _text(metadata, "general.name"), metadata.get("clip.vision.projection_dim"))


def _metadata(path: Path) -> Mapping[str, object]:
    """Of the header's start; nothing of a file that has none, which is not our business here."""
    try:
        return read_leading_metadata(path)
    except (QuantizeError, OSError):
        return {}


def _text(metadata: Mapping[str, object], key: str) -> str:
    return str(metadata.get(key) or "")


def _preference(tower: _Tower) -> int:
    kinds = [place for place, kind in enumerate(_BEST_FIRST) if tower.path.stem.endswith(f"-{kind}")]
    return next(iter(kinds), len(_BEST_FIRST))
