"""A JSON object in a file: read if it is whole, written so that there is never half of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenctl.files.atomic import write_private


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
