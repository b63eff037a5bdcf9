"""Gives the settings to the command that runs: as click's defaults of the options that are not on its command line."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer

from qwenctl.settings.rules import collect_options

if TYPE_CHECKING:
    from qwenctl.settings.resolve import Settings


class SettingsContext:
    """typer's `root` command with its settings; `json` says whether a setting has asked for JSON so far."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.json = False
        self.commands = collect_options(root)
        for command in self.commands:
            command.called.context_class = _ConfiguredContext

    @cached_property
    def settings(self) -> Settings:
        """What environment and files say."""
        from qwenctl.settings.resolve import resolve
        from qwenctl.settings.toml import folder_path, read_toml, user_path

        return resolve(self.commands, read_toml(folder_path()), read_toml(user_path()), os.environ)

    def run(self, arguments: list[str]) -> Any:
        """Run the command that `arguments` call. Raises what typer and the command raise."""
        return self.root(arguments, prog_name="qwenctl", standalone_mode=False, obj=self)

    def defaults(self, called: Any) -> dict[str, Any]:
        """What is set for typer's command `called`.

        Raises QwenctlError for anything that is wrong in the files, and for a wrong variable of that command.
        """
        path = next(command.path for command in self.commands if command.called is called)
        defaults = self.settings.defaults(path)
        self.json = self.json or defaults.get("json") is True
        for problem in self.settings.problems:
            if problem.path in (None, path):
                raise problem.error
        return defaults


class _ConfiguredContext(typer.Context):
    """The context of a command, in which a setting stands for an option that is not given.

    click's own `default_map` would have to be there before the command line is parsed, so for `--help` too, and takes
    options and commands of a group for one another where they have one name.
    """

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        configuration = self.find_object(SettingsContext)
        return configuration.defaults(self.command) if configuration else {}

    def lookup_default(self, name: str, call: bool = True) -> Any:
        """The setting; for help and completion, which parse resiliently, there is none."""
        return None if self.resilient_parsing else self._defaults.get(name)
