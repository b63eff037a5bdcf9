"""Which variables of the environment are settings: QWENCTL_CHAT_CTX_SIZE for one command, QWENCTL_CTX_SIZE for all.

Declared commands and an environment come in; what is said in it goes out, for one command before for all. An empty
variable is one that is not set, as everywhere in click.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qwenctl.settings.declared_options import Command
from qwenctl.settings.sources import Said

_PREFIX = "QWENCTL_"


def said_by_variables(commands: Sequence[Command], environment: Mapping[str, str]) -> Iterator[Said]:
    """The settings that `environment` has."""
    for own in (True, False):
        for command in commands:
            for setting in command.settings:
                for name in setting.names:
                    variable = _variable(*command.path, name) if own else _variable(name)
                    if environment.get(variable):
                        yield Said(command, setting, environment[variable], variable, variable, from_file=False)


def unused_variables(environment: Mapping[str, str], used: Sequence[Said]) -> list[str]:
    """The variables that look like settings and are none."""
    names = {one.origin for one in used}
    return sorted(name for name in environment if name.startswith(_PREFIX) and environment[name] and name not in names)


def _variable(*words: str) -> str:
    return _PREFIX + "_".join(words).upper().replace("-", "_")
