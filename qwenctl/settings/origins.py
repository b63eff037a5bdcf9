"""The current value of every setting and its origin: the command line, the environment, a file or the default.

Settings come in, with words that select some of them or are a command line; rows go out, as values or as TOML.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import write_private
from qwenctl.settings.resolve import Settings
from qwenctl.settings.rules import Command, Setting, find_nearest, hyphenate


@dataclass(frozen=True)
class Row:
    """A setting of a command; `value` is None if it is not set. `command` is a dotted path, as in `sessions.delete`."""

    command: str
    key: str
    value: Any
    origin: str

    @property
    def selectors(self) -> tuple[str, ...]:
        """The words that select this row: its command, the groups above, its key, and both joined."""
        outer = self.command.split(".")
        commands = [".".join(outer[:length]) for length in range(1, len(outer) + 1)]
        return (*commands, self.key, f"{self.command}.{self.key}")


def effective_rows(root: Any, commands: Sequence[Command], settings: Settings, words: Sequence[str]) -> list[Row]:
    """Return the rows that `words` select (all if there are none), or those of the command line in `words`.

    Raises QwenctlError if a word selects nothing, and what typer raises for a wrong command line.
    """
    if any(word.startswith("-") for word in words):
        calls = [command for command in commands if command.path == tuple(words[: len(command.path)])]
        if not calls:
            raise QwenctlError(f"no command '{words[0]}'", "qwenctl config show -- chat --temp 0.7")
        command = max(calls, key=lambda call: len(call.path))
        return list(_command_rows(root, command, settings, words[len(command.path) :]))
    rows = [row for command in commands for row in _command_rows(root, command, settings)]
    selected = [hyphenate(word) for word in words]
    known = {word for row in rows for word in row.selectors}
    for word in selected:
        if word not in known:
            near = find_nearest(word, known)
            raise QwenctlError(f"no setting '{word}'", f"did you mean '{near}'?" if near else "qwenctl config show")
    return [row for row in rows if not selected or set(selected) & set(row.selectors)]


def _command_rows(root: Any, command: Command, settings: Settings, arguments: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of one command line, with the values and sources that click finds when the command runs."""
    context = typer.Context(
        command.typer_command,
        typer.Context(root, info_name="qwenctl", **root.context_settings),
        " ".join(command.path),
        default_map=settings.defaults(command.path),
    )
    given, _, _ = command.typer_command.make_parser(context).parse_args(args=list(arguments))
    for setting in command.settings:
        option = setting.option
        typed, source = option.consume_value(context, given)
        value, _ = option.handle_parse_result(context, given, [])
        origin = {"COMMANDLINE": "command line", "DEFAULT": "default"}.get(source.name)
        origin = origin or settings.values[command.path, option.name].origin
        # A value that is parsed to None is shown as it was written; an option without any list is shown as not set.
        yield Row(command.name, setting.name, _to_plain(typed if value is None or typed is None else value), origin)


def _to_plain(value: Any) -> Any:
    """Convert `value` to types that TOML and JSON have."""
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# ------------------------------------------------------------------ text


def format_toml(rows: Sequence[Row], unused: Sequence[str], *, origin: bool) -> str:
    """Format the rows as TOML; settings that are not set, and origins if `origin`, are comments.

    `unused` are environment variables that no setting reads.
    """
    lines: list[str] = []
    width = min(40, max((len(_assignment(row)) for row in rows if row.value is not None), default=0))
    for number, row in enumerate(rows):
        if number == 0 or rows[number - 1].command != row.command:
            lines += ["", f"[{row.command}]"]
        shown = origin and row.value is not None
        lines.append(f"{_assignment(row):<{width}}  # {row.origin}" if shown else _assignment(row))
    lines += ["", f"# not read: {', '.join(unused)}"] if unused else []
    return "\n".join(lines).lstrip("\n")


def _assignment(row: Row) -> str:
    return f"# {row.key} is not set" if row.value is None else f"{row.key} = {toml_text(row.value)}"


def toml_text(value: Any) -> str:
    """Format `value` as TOML: JSON, except that JSON does not escape DEL and TOML must."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_HEAD = """\
# Settings of qwenctl. Lines that start with # are comments; remove the # to set a value.
#
# Command-line options win over environment variables (QWENCTL_CHAT_TEMP, QWENCTL_TEMP), those over qwenctl.toml in the
# current folder, and that over this file. `qwenctl config show --origin` shows each value and where it comes from.
#
# Keys above the first [table] apply to every command that has such an option. Options of several commands:
"""


def example_file(commands: Sequence[Command]) -> str:
    """Return the text of a new settings file: every setting as a comment, with its meaning and default."""
    counts = Counter(setting.name for command in commands for setting in command.settings)
    shared = ", ".join(sorted(name for name, count in counts.items() if count > 1))
    return (
        "\n".join([f"{_HEAD}# {shared}.", *(line for command in commands for line in _example_table(command))]) + "\n"
    )


def _example_table(command: Command) -> Iterator[str]:
    yield from ("", f"[{command.name}]") if command.settings else ()
    for setting in command.settings:
        meaning = (setting.option.help or "").splitlines()
        yield from ("", *(f"# {line}" for line in meaning), f"# {setting.name} = {_example_value(setting)}")


def _example_value(setting: Setting) -> str:
    """Return the default, or a placeholder if there is none."""
    if setting.option.default is not None:
        return toml_text(setting.option.default)
    name = (setting.option.metavar or "").strip("[]") or "VALUE"
    return {"number": name, "list": f'["{name}"]'}.get(setting.kind, f'"{name}"')


def write_new(path: Path, text: str) -> None:
    """Write `text` to a new file, atomically. Raises QwenctlError if the file exists or cannot be written."""
    if os.path.lexists(path):
        raise QwenctlError(f"{path} already exists", f"rm {shlex.quote(str(path))}", ExitCode.CANNOT_CREATE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, text.encode())
    except OSError as error:
        reason = f"cannot write {path} ({(error.strerror or str(error)).lower()})"
        raise QwenctlError(reason, "qwenctl config path", ExitCode.CANNOT_CREATE) from error
