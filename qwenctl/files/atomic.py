"""Write files atomically (completely or not at all), readable by their owner only unless asked otherwise.

Bytes or JSON objects come in; files go out. What the files contain is not known here.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from quantize.file_system import sync_folder


def temp_dir_path() -> Path:
    """A random path for a temporary folder; the caller creates it when it is needed."""
    return Path(tempfile.gettempdir()) / f"qwenctl-{secrets.token_hex(8)}"


@contextmanager
def atomic_write(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends, or is deleted if it raises. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:
            yield file
            # Sync before the rename: after a power failure the new name must not lead to missing data.
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Atomically replace `path` with `data`, readable by the owner only. Raises OSError."""
    with atomic_write(path) as file:
        file.write(data)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is missing or contains anything else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # RecursionError: nested too deeply
        return {}
    return value if isinstance(value, dict) else {}


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically replace `path` with `value` as JSON. Raises OSError."""
    write_private(path, json.dumps(value, indent=1).encode())
