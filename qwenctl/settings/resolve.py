"""The value of each setting that is not on the command line, where it comes from, and what is wrong.

The environment comes before `./qwenctl.toml`, and that before the user's file; in each of them what is said for one
command comes before what is said for all. Declared commands, files and an environment come in, `Settings` go out;
nothing is read and nothing is raised here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwenctl.settings.declared_options import Command
from qwenctl.settings.sources import Problem, Said, Value
from qwenctl.settings.tables import said_by_file
from qwenctl.settings.toml import TomlFile
from qwenctl.settings.variables import said_by_variables, unused_variables

# A file that lies in the current folder may have come with it, from anybody: it must not say yes in a person's place,
# have code run, choose where a token or a conversation is sent, or open a port to others. Some of these are not for any
# file; see `declared`.
NOT_FROM_THE_FOLDER = frozenset(
    {"yes", "overwrite", "force", "tools", "token", "endpoint", "rpc", "host", "plan", "allow-url"}
)

Key = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class Settings:
    """Values by path of the command and field of the option; problems; and variables that nothing reads."""

    values: Mapping[Key, Value]
    problems: tuple[Problem, ...]
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
    variables = list(said_by_variables(commands, environment))
    said = [
        *variables,
        *said_by_file(commands, folder_file, NOT_FROM_THE_FOLDER),
        *said_by_file(commands, user_file),
    ]
    values: dict[Key, Value] = {}
    problems: list[Problem] = []
    for one in said:
        understood = one.understood() if isinstance(one, Said) else one
        if isinstance(understood, Problem):
            problems.append(understood)
        elif isinstance(one, Said):
            values.setdefault((one.command.path, one.setting.field), understood)
    return Settings(values, tuple(problems), tuple(unused_variables(environment, variables)))
