"""The file that a person means: a path, or the name of a model that is here.

Text comes in, a path goes out; whether it is there and what it holds is looked at elsewhere. What can only be a path
is given back at once, without a look into the caches.
"""

from __future__ import annotations

from pathlib import Path


def model_path(text: str) -> Path:
    """The path of the model that `text` names. Raises QwenctlError if it is a name of none that is here."""
    path = Path(text).expanduser()
    if path.exists() or path.suffix == ".gguf" or text.startswith(("/", ".", "~")):
        return path
    from qwenctl.hub.local.installed import find_model

    return find_model(text)
