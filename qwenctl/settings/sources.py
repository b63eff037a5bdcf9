"""What a source says, before it is understood: a value for a setting of a command, or a problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.settings.declared_options import Command, Setting
from qwenctl.settings.values import Given, from_environment, from_toml

_MAX_CHARACTERS = 300


@dataclass(frozen=True)
class Value:
    """`given` as the option's parser takes it, `parsed` as the command gets it."""

    given: Given
    parsed: Any
    origin: str


@dataclass(frozen=True)
class Problem:
    """What is wrong, and the command that it is wrong for; None if it is for all."""

    error: QwenctlError
    command: Command | None = None


@dataclass(frozen=True)
class Said:
    """A value for `setting` of `command`: from `origin`, a variable or a line of a file, under the name `label`."""

    command: Command
    setting: Setting
    value: Any
    origin: str
    label: str
    from_file: bool

    def understood(self) -> Value | Problem:
        """The value, checked by the option's own parser. A wrong variable is a problem of its command alone."""
        convert = from_toml if self.from_file else from_environment
        try:
            given = convert(self.setting, self.value)
            return Value(given, self.setting.check(given), self.origin)
        except QwenctlError as error:
            what = QwenctlError(f"{self.label}: {_shortened(error.message)}", self.command.help, ExitCode.CONFIG)
            return Problem(what, None if self.from_file else self.command)


def _shortened(message: str) -> str:
    """A message that repeats a value may be as long as the value."""
    return message if len(message) <= _MAX_CHARACTERS else f"{message[:_MAX_CHARACTERS]}…"
