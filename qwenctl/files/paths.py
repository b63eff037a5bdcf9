"""Where the program keeps its own files: conversations, history, logs, and what it has measured."""

from __future__ import annotations

from pathlib import Path

from qwenctl.errors import ExitCode, QwenctlError


def state_folder() -> Path:
    """The program's own folder for state, for its owner only. Raises QwenctlError where it cannot be made."""
    from platformdirs import user_state_path

    return _private(user_state_path("qwenctl", appauthor=False))


def log_folder() -> Path:
    """The folder for the engine's logs, for its owner only. Raises QwenctlError where it cannot be made."""
    return _private(state_folder() / "log")


def tuned_folder() -> Path:
    """The folder for the results of `qwenctl tune`, for its owner only. Raises QwenctlError where it cannot be made."""
    return _private(state_folder() / "tuned")


def cache_folder() -> Path:
    """The folder for what can be measured again. Raises QwenctlError where it cannot be made."""
    from platformdirs import user_cache_path

    return _private(user_cache_path("qwenctl", appauthor=False))


def sessions_folder() -> Path:
    """The folder for kept conversations, for its owner only. Raises QwenctlError where it cannot be made."""
    from platformdirs import user_data_path

    return _private(user_data_path("qwenctl", appauthor=False) / "sessions")


def prefixes_folder() -> Path:
    """The folder for kept prefixes, for its owner only. Raises QwenctlError where it cannot be made."""
    from platformdirs import user_data_path

    return _private(user_data_path("qwenctl", appauthor=False) / "prefixes")


def _private(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        hint = "XDG_DATA_HOME, XDG_STATE_HOME and XDG_CACHE_HOME can move it elsewhere"
        raise QwenctlError(f"cannot create {folder} ({error.strerror})", hint, ExitCode.CANNOT_CREATE) from error
    return folder
