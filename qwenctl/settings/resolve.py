"""The value of each setting that is not on the command line, where it comes from, and what is wrong.

The environment comes before `./qwenctl.toml`, and that before the user's file; in each of them what is said for one
command comes before what is said for all. Declared commands, files and an environment come in, `Settings` go out;
nothing is read and nothing is raised here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import typer

from qwenctl.settings.declared_options import Command, collect_options, configurable_commands
from qwenctl.settings.sources import (
    RawSetting,
    ResolvedValue,
    SettingError,
    settings_from_env,
    settings_from_file,
    unused_variables,
)
from qwenctl.settings.toml import TomlFile

# A file that lies in the current folder may have come with it, from anybody: it must not say yes in a person's place,
# have code run, choose where a token or a conversation is sent, or open a port to others. Some of these are not for any
# file; see `declared`.
FORBIDDEN_IN_LOCAL_FILE = frozenset(
    {"yes", "overwrite", "force", "tools", "token", "endpoint", "rpc", "host", "plan", "allow-url"}
)

Key = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class Settings:
    """Values by path of the command and field of the option; problems; and variables that nothing reads."""

    values: Mapping[Key, ResolvedValue]
    problems: tuple[SettingError, ...]
    unused: tuple[str, ...]

    def check(self, path: tuple[str, ...]) -> None:
        """Raise what is wrong for the command `path`: anything in the files, of the variables only its own."""
        for problem in self.problems:
            if problem.command is None or problem.command.path == path:
                raise problem.error


def resolve(
    commands: Sequence[Command], folder_file: TomlFile, user_file: TomlFile, environment: Mapping[str, str]
) -> Settings:
    """Bring the sources together; the first that has a right value for a setting gives it."""
    variables = list(settings_from_env(commands, environment))
    said = [
        *variables,
        *settings_from_file(commands, folder_file, FORBIDDEN_IN_LOCAL_FILE),
        *settings_from_file(commands, user_file),
    ]
    values: dict[Key, ResolvedValue] = {}
    problems: list[SettingError] = []
    for one in said:
        understood = one.validate() if isinstance(one, RawSetting) else one
        if isinstance(understood, SettingError):
            problems.append(understood)
        elif isinstance(one, RawSetting):
            values.setdefault((one.command.path, one.setting.field), understood)
    return Settings(values, tuple(problems), tuple(unused_variables(environment, variables)))


class SettingsContext:
    """The program's root command with its settings; `json` says whether a setting has asked for JSON so far."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.json = False
        for _, command in configurable_commands(root):
            command.context_class = _ConfiguredContext

    @cached_property
    def commands(self) -> tuple[Command, ...]:
        """All commands that have settings."""
        return collect_options(self.root)

    @cached_property
    def settings(self) -> Settings:
        """What environment and files say."""
        from qwenctl.settings.resolve import resolve
        from qwenctl.settings.toml import read_files

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
        configuration = self.find_object(SettingsContext)
        if self.resilient_parsing or configuration is None:
            return None
        return configuration.default(_words(self), name)


def _words(context: Any) -> tuple[str, ...]:
    """The words that call the command of `context`, without the program's name."""
    return (*_words(context.parent), context.info_name) if context.parent else ()
