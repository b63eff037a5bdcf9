"""Passes the settings to the command that runs, as click's defaults for options that are not on its command line.

typer's root command comes in, with arguments; the result of the command goes out. What the options mean is not known
here.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer

from qwenctl.settings.rules import collect_options

if TYPE_CHECKING:
    from qwenctl.settings.resolve import Settings


class SettingsContext:
    """typer's `root` command with its settings; `json` becomes True if a setting asks for JSON."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.json = False
        self.commands = collect_options(root)
        for command in self.commands:
            command.typer_command.context_class = _ConfiguredContext

    @cached_property
    def settings(self) -> Settings:
        """The settings from the environment and the files, read on first use."""
        from qwenctl.settings.resolve import resolve
        from qwenctl.settings.toml import local_settings_path, read_toml, user_settings_path

        return resolve(self.commands, read_toml(local_settings_path()), read_toml(user_settings_path()), os.environ)

    def run(self, arguments: list[str]) -> Any:
        """Run the command that `arguments` name; return its result. Raises what typer and the command raise."""
        return self.root(arguments, prog_name="qwenctl", standalone_mode=False, obj=self)

    def defaults(self, typer_command: Any) -> dict[str, Any]:
        """Return the settings for `typer_command`, by the option's name in click.

        Raises QwenctlError for any error in the files, and for a wrong environment variable of that command.
        """
        path = next(command.path for command in self.commands if command.typer_command is typer_command)
        defaults = self.settings.defaults(path)
        self.json = self.json or defaults.get("json") is True
        for problem in self.settings.problems:
            if problem.path in (None, path):
                raise problem.error
        return defaults


class _ConfiguredContext(typer.Context):
    """A command's context in which a setting replaces the default of an option that is not on the command line.

    click's own `default_map` is needed before the command line is parsed, so even for `--help`, and it confuses an
    option and a subcommand of one name.
    """

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        settings = self.find_object(SettingsContext)
        return settings.defaults(self.command) if settings else {}

    def lookup_default(self, name: str, call: bool = True) -> Any:
        """Return the setting `name`; None for help and completion, which parse resiliently. Called by click."""
        return None if self.resilient_parsing else self._defaults.get(name)
