"""The files that a model's name means: its GGUF, the mmproj file of its vision tower, and the memory that one needs.

Paths and names as a person gives them come in, files that exist and are what they should be go out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qwenctl.errors import QwenctlError
from qwenctl.placement.constraints import LoadRequest
from qwenctl.protocol.media import VisionSettings


def resolve_model(model: Path | None) -> Path:
    """The file that `model` names, a path or a model that is here. Raises QwenctlError if there is none."""
    from qwenctl.hub.local.resolve_model import resolve_model_path
    from qwenctl.models.gguf_check import check_model_file

    if model is None:
        raise QwenctlError(
            "no model: -m takes a GGUF file or a model listed by `qwenctl ls`",
            "`qwenctl pull qwen3.5-35b-a3b` downloads one that fits this machine",
        )
    path = resolve_model_path(str(model))
    check_model_file(path)
    return path


def vision_settings(model: Path, mmproj: Path | None, vision: VisionSettings) -> VisionSettings:
    """`vision` with the tower in `mmproj`, or else in the file beside `model`; with none if there is no such file.

    Raises QwenctlError for a file that is no vision tower.
    """
    from qwenctl.models.mmproj import check_mmproj, find_mmproj

    found = check_mmproj(mmproj.expanduser()) if mmproj is not None else find_mmproj(model)
    return replace(vision, mmproj=str(found.absolute()) if found is not None else "")


def reserve_mmproj(asked: LoadRequest, mmproj: str) -> LoadRequest:
    """`asked` with room for the vision tower in the file `mmproj`, if there is one."""
    n_bytes = Path(mmproj).stat().st_size if mmproj else 0
    return replace(asked, constraints=replace(asked.constraints, vision_bytes=n_bytes)) if n_bytes else asked
