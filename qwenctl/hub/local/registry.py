"""What this program has put where no cache is: models that it made, caches in other folders, spools.

A file of lines in the program's own folder, each a JSON object, only ever appended to: two processes can write at once,
and half a line that a killed one left is passed over. What a note names may be gone by now.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwenctl.errors import QwenctlError
from qwenctl.files.paths import state_folder

_NAME = "models.jsonl"


@dataclass(frozen=True)
class LocalConversion:
    """A model that was quantized here, the file to load first; `repository` is a name where there is none."""

    paths: tuple[str, ...]
    repository: str
    commit: str
    type_name: str


def register_conversion(made: LocalConversion) -> None:
    """Remember a model that was made."""
    _append({"made": asdict(made)})


def note_root(root: Path) -> None:
    """Remember a cache in a folder of its own."""
    if root.absolute() not in noted_roots():
        _append({"root": str(root.absolute())})


def register_buffer(folder: Path) -> None:
    """Remember a spool, in case nobody comes back to it."""
    _append({"spool": str(folder.absolute())})


def noted_models() -> list[LocalConversion]:
    """The models that were made and are still there, each once."""
    found: dict[str, LocalConversion] = {}
    for note in _read():
        with suppress(TypeError, KeyError, IndexError):
            made = LocalConversion(**{**note["made"], "paths": tuple(map(str, note["made"]["paths"]))})
            found[made.paths[0]] = made
    return [made for made in found.values() if Path(made.paths[0]).is_file()]


def noted_roots() -> list[Path]:
    """The caches that are still there."""
    return _folders("root")


def noted_spools() -> list[Path]:
    """The spools that are still there."""
    return _folders("spool")


def _folders(kind: str) -> list[Path]:
    paths = dict.fromkeys(str(note[kind]) for note in _read() if kind in note)
    return [Path(path) for path in paths if Path(path).is_dir()]


def _read() -> Iterator[dict[str, Any]]:
    try:
        lines = (state_folder() / _NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, QwenctlError):
        return
    for line in lines:
        with suppress(ValueError):
            if isinstance(note := json.loads(line), dict):
                yield note


def _append(note: dict[str, Any]) -> None:
    """Add a line. A folder that cannot be written is no reason to fail: the model itself is where it should be."""
    with suppress(OSError, QwenctlError):
        descriptor = os.open(state_folder() / _NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, (json.dumps(note) + "\n").encode())
        finally:
            os.close(descriptor)
