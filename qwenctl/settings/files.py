"""Which files settings are read from: `qwenctl.toml` in the current folder, and the user's `config.toml`."""

from __future__ import annotations

from pathlib import Path

from qwenctl.settings.toml import TomlFile, read_toml


def folder_path() -> Path:
    """The file of the current folder, without the folder, as it is named in messages."""
    return Path("qwenctl.toml")


def user_path() -> Path:
    """The user's file, in the platform's folder for configuration."""
    from platformdirs import user_config_path

    return user_config_path("qwenctl", appauthor=False) / "config.toml"


def read_files() -> tuple[TomlFile, TomlFile]:
    """Both files, the one that comes first first."""
    return read_toml(folder_path()), read_toml(user_path())
