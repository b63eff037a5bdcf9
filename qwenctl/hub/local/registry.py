"""Remember what this program stored outside the default cache: conversions, other cache folders, shard buffers.

Paths come in and go out. They are stored in a file in the state folder with one JSON object per line. It is only ever
appended to, so that two processes can write at the same time; an incomplete line of a killed process is skipped.
Entries whose files are gone are left out when reading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantize.file_system import write_all
from quantize.foreign_json import parse_object
from qwenctl.errors import QwenctlError
from qwenctl.files.paths import state_folder

_NAME = "models.jsonl"


@dataclass(frozen=True)
class LocalConversion:
    """A model that was quantized on this machine; `paths` starts with the file to load.

    `repository` is just the model's name if it has no repository.
    """

    paths: tuple[str, ...]
    repository: str
    commit: str
    type_name: str


def register_conversion(conversion: LocalConversion, fingerprint: str = "", hashes: Sequence[str] = ()) -> None:
    """Remember a model that was quantized here, the fingerprint of its plan, and the SHA-256 of its files."""
    _append_entry({"made": asdict(conversion), "fingerprint": fingerprint, "hashes": list(hashes)})


def register_root(root: Path) -> None:
    """Remember a cache in another folder than the default."""
    if root.absolute() not in registered_roots():
        _append_entry({"root": str(root.absolute())})


def register_buffer(folder: Path) -> None:
    """Remember a shard buffer, so that it can be cleaned up if its conversion is never finished."""
    _append_entry({"spool": str(folder.absolute())})


def registered_models() -> list[LocalConversion]:
    """The models quantized here that still exist, each once, with its latest entry."""
    conversions: dict[str, LocalConversion] = {}
    for entry in _read_entries():
        with suppress(TypeError, KeyError, IndexError):  # an entry of another kind or version
            conversion = LocalConversion(**{**entry["made"], "paths": tuple(map(str, entry["made"]["paths"]))})
            if all(isinstance(text, str) for text in (conversion.repository, conversion.commit, conversion.type_name)):
                conversions[conversion.paths[0]] = conversion
    return [conversion for conversion in conversions.values() if Path(conversion.paths[0]).is_file()]


def find_hashes(path: Path, fingerprint: str) -> tuple[str, ...]:
    """The SHA-256 of the files of the model at `path`, if it was last made by the plan with this fingerprint; or none.

    The files may have changed since then.
    """
    found: tuple[str, ...] = ()
    for entry in _read_entries():
        with suppress(TypeError, KeyError, IndexError):
            if entry["made"]["paths"][0] == str(path.absolute()):
                is_same = fingerprint and entry.get("fingerprint") == fingerprint
                found = tuple(map(str, entry["hashes"])) if is_same else ()
    return found


def registered_roots() -> list[Path]:
    """The other cache folders that still exist."""
    return _read_folders("root")


def registered_buffers() -> list[Path]:
    """The shard buffers that still exist."""
    return _read_folders("spool")


def _read_folders(key: str) -> list[Path]:
    paths = dict.fromkeys(str(entry[key]) for entry in _read_entries() if key in entry)
    return [Path(path) for path in paths if Path(path).is_dir()]


def _read_entries() -> Iterator[dict[str, Any]]:
    """Yield all readable entries; none if the file cannot be read."""
    try:
        lines = (state_folder() / _NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, QwenctlError):
        return
    for line in lines:
        with suppress(ValueError):
            yield parse_object(line)


def _append_entry(entry: dict[str, Any]) -> None:
    """Append a line. Write errors are ignored, because the model itself is stored correctly."""
    with suppress(OSError, QwenctlError):
        # A single write with O_APPEND, so that lines of two processes do not mix.
        descriptor = os.open(state_folder() / _NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            write_all(descriptor, f"{_line_end(descriptor)}{json.dumps(entry)}\n".encode())
        finally:
            os.close(descriptor)


def _line_end(descriptor: int) -> str:
    """What ends the half line that a full disk or a power cut has left at the end of the file, or ""."""
    size = os.fstat(descriptor).st_size
    return "\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else ""
