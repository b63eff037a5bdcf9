"""Files that are written whole or not at all, mostly for their owner only, and a folder for a while."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def temp_dir_path() -> Path:
    """The path of a folder for a while, which nobody knows and which is made when something is put into it."""
    return Path(tempfile.gettempdir()) / f"qwenctl-{secrets.token_hex(8)}"


@contextmanager
def atomic_write(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the context ends, and leaves nothing if it fails. Raises OSError."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path` in the place of what was there. Raises OSError."""
    with atomic_write(path) as file:
        file.write(data)


def read_object(path: Path) -> dict[str, Any]:
    """The object; an empty one where there is no file, or something else in it."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # the last for what is nested without end
        return {}
    return found if isinstance(found, dict) else {}


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """Put `value` in the place of what is there. Raises OSError."""
    write_private(path, json.dumps(value, indent=1).encode())
