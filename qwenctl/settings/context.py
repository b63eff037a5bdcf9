"""Gives settings to the commands that run, as the defaults of their options.

typer's root command comes in; it goes out with contexts that ask `Configuration` for a default. Settings are read when
the first default is asked for, so that `--help`, `--version`, completion and `qwenctl config` never read them.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer

from qwenctl.settings.declared_options import Command, configurable, declared

if TYPE_CHECKING:
    from qwenctl.settings.resolve import Settings


class Configuration:
    """The program's root command with its settings; `json` says whether a setting has asked for JSON so far."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.json = False
        for _, command in configurable(root):
            command.context_class = _ConfiguredContext

    @cached_property
    def commands(self) -> tuple[Command, ...]:
        """All commands that have settings."""
        return declared(self.root)

    @cached_property
    def settings(self) -> Settings:
        """What environment and files say."""
        from qwenctl.settings.files import read_files
        from qwenctl.settings.resolve import resolve

        return resolve(self.commands, *read_files(), os.environ)

    def run(self, arguments: list[str]) -> Any:
        """Run the command that `arguments` call. Raises what typer and the command raise."""
        return self.root(arguments, prog_name="qwenctl", standalone_mode=False, obj=self)

    def default(self, path: tuple[str, ...], field: str) -> Any:
        """The value that is set for an option, None if none is. Raises QwenctlError if the settings are wrong."""
        values = self.settings.values
        self.json = self.json or ((path, "json") in values and values[path, "json"].parsed is True)
        self.settings.check(path)
        return values[path, field].given if (path, field) in values else None


class _ConfiguredContext(typer.Context):
    """The context of a command, in which a setting stands for an option that is not given."""

    def lookup_default(self, name: str, call: bool = True) -> Any:
        """The setting; for help and completion, which parse resiliently, there is none."""
        configuration = self.find_object(Configuration)
        if self.resilient_parsing or configuration is None:
            return None
        return configuration.default(_words(self), name)


def _words(context: Any) -> tuple[str, ...]:
    """The words that call the command of `context`, without the program's name."""
    return (*_words(context.parent), context.info_name) if context.parent else ()
