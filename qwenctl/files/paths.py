"""Where the program stores its own files: conversations, history, logs and measurements.

Folders go out, created and readable by their owner only; what is stored in them is not known here. Those for what users
save are created when something is saved. Of a folder that is yet to be created, `nearest_existing` tells where its
files will lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwenctl.errors import ExitCode, QwenctlError


def state_folder() -> Path:
    """The folder for the program's state. Raises QwenctlError if it cannot be created."""
    from platformdirs import user_state_path

    return make_private(user_state_path("qwenctl", appauthor=False))


def log_folder() -> Path:
    """The folder for the engine's logs. Raises QwenctlError if it cannot be created."""
    return make_private(state_folder() / "log")


def tuned_folder() -> Path:
    """The folder for the results of `qwenctl tune`. Raises QwenctlError if it cannot be created."""
    return make_private(state_folder() / "tuned")


def cache_folder() -> Path:
    """The folder for measurements that can be repeated. Raises QwenctlError if it cannot be created."""
    from platformdirs import user_cache_path

    return make_private(user_cache_path("qwenctl", appauthor=False))


def sessions_folder() -> Path:
    """The folder for saved conversations; it may not exist yet."""
    from platformdirs import user_data_path

    return user_data_path("qwenctl", appauthor=False) / "sessions"


def prefixes_folder() -> Path:
    """The folder for saved prefixes; it may not exist yet."""
    from platformdirs import user_data_path

    return user_data_path("qwenctl", appauthor=False) / "prefixes"


class FolderPath(type(Path())):  # type: ignore[misc]  # the class of paths differs between platforms
    """A path that is meant as a folder, whether it exists or not: it was written with a slash at its end."""


def parse_output(text: str) -> Path:
    """The path of an output as it was typed, which a `Path` would not tell from one without the slash at its end."""
    return FolderPath(text) if text.endswith("/") else Path(text)


def file_in_folder(output: Path, name: str) -> Path:
    """The file to write: `output` itself, or `name` in it if it is a folder, or meant as one."""
    return output / name if isinstance(output, FolderPath) or output.is_dir() else output


@contextmanager
def missing_folder(output: Path | None) -> Iterator[None]:
    """Inside, a `FolderPath` exists. What was created is removed again if nothing was put into it. Raises OSError."""
    missing: list[Path] = []
    if isinstance(output, FolderPath):
        missing = [folder for folder in map(Path, (output, *output.parents)) if not folder.exists()]
        output.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # it is not empty
            for folder in missing:
                folder.rmdir()


def nearest_existing(folder: Path) -> Path:
    """`folder` itself or its nearest parent that exists, as an absolute path."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))


def make_private(folder: Path) -> Path:
    """Create `folder` for its owner only and return it. Raises QwenctlError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        hint = "XDG_DATA_HOME, XDG_STATE_HOME and XDG_CACHE_HOME can move it elsewhere"
        raise QwenctlError(f"cannot create {folder} ({error.strerror})", hint, ExitCode.CANNOT_CREATE) from error
    return folder
