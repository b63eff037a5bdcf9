"""Resolve what a user gives as a model: a path, or the name of an installed model.

Text comes in, a path goes out; whether the file exists and what it contains is not known here. Text that can only be a
path is returned at once, without searching the caches.
"""

from __future__ import annotations

from pathlib import Path


def resolve_model_path(text: str) -> Path:
    """The path of the model that `text` names. Raises QwenctlError if no installed model has that name."""
    path = Path(text).expanduser()
    if path.exists() or path.suffix == ".gguf" or text.startswith(("/", ".", "~")):
        return path
    from qwenctl.hub.local.installed import find_model

    return find_model(text)
