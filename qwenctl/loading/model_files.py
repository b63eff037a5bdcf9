"""The files of a model: its GGUF file, the mmproj file of its vision encoder, and the memory that the latter needs.

Paths and names from the command line come in; checked paths of existing files go out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qwenctl.errors import QwenctlError
from qwenctl.placement.constraints import LoadRequest
from qwenctl.protocol.media import VisionSettings
from qwenctl.terminal.streams import note


def resolve_model(model: Path | None, notify: Callable[[str], None] = note) -> Path:
    """The GGUF file that `model` means: a path, or a local model's name. Raises QwenctlError if there is none.

    `notify` gets what the user should know of the file.
    """
    from qwenctl.hub.local.resolve_model import resolve_model_path
    from qwenctl.models.gguf_check import check_model_file

    if model is None:
        raise QwenctlError(
            "no model: -m takes a GGUF file or a model listed by `qwenctl ls`",
            "`qwenctl pull qwen3.5-35b-a3b` downloads one that fits this machine",
        )
    path = resolve_model_path(str(model))
    for line in check_model_file(path):
        notify(line)
    return path


def vision_settings(model: Path, mmproj: Path | None, vision: VisionSettings) -> VisionSettings:
    """`vision` with the vision encoder `mmproj`, by default the file next to `model`; without one if there is none.

    If the files of several other models are there, they are only listed: text needs none of them. Raises QwenctlError
    for a file that is not an mmproj file.
    """
    from qwenctl.models.mmproj import check_mmproj, find_mmproj

    found = (check_mmproj(mmproj.expanduser()),) if mmproj is not None else find_mmproj(model)
    paths = tuple(str(path.absolute()) for path in found)
    if len(paths) > 1:
        return replace(vision, mmproj="", mmproj_choices=paths)
    return replace(vision, mmproj="".join(paths), mmproj_choices=())


def reserve_mmproj(load: LoadRequest, mmproj: str) -> LoadRequest:
    """`load` with memory reserved for the vision encoder in the file `mmproj`, if not ""."""
    n_bytes = Path(mmproj).stat().st_size if mmproj else 0
    return replace(load, constraints=replace(load.constraints, vision_bytes=n_bytes)) if n_bytes else load
