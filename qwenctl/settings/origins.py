"""What every setting is now, and why: from the command line, the environment, a file, or by default.

Settings come in, with words that choose among them or are a command line; rows go out, as values or as TOML.
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
from qwenctl.settings.rules import Command, Setting, hyphenated, nearest


@dataclass(frozen=True)
class Row:
    """One setting of one command; `value` is None where nothing is set."""

    command: str
    key: str
    value: Any
    origin: str

    @property
    def words(self) -> tuple[str, ...]:
        """What the row may be chosen by."""
        outer = self.command.split(".")
        commands = [".".join(outer[:length]) for length in range(1, len(outer) + 1)]
        return (*commands, self.key, f"{self.command}.{self.key}")


def effective_rows(root: Any, commands: Sequence[Command], settings: Settings, words: Sequence[str]) -> list[Row]:
    """The rows that `words` choose, all without any. Raises QwenctlError, or what typer raises for a command line."""
    if any(word.startswith("-") for word in words):
        calls = [command for command in commands if command.path == tuple(words[: len(command.path)])]
        if not calls:
            raise QwenctlError(f"no command '{words[0]}'", "qwenctl config show -- chat --temp 0.7")
        command = max(calls, key=lambda call: len(call.path))
        return list(_rows(root, command, settings, words[len(command.path) :]))
    rows = [row for command in commands for row in _rows(root, command, settings)]
    wanted = [hyphenated(word) for word in words]
    known = {word for row in rows for word in row.words}
    for word in wanted:
        if word not in known:
            near = nearest(word, known)
            raise QwenctlError(f"no setting '{word}'", f"did you mean '{near}'?" if near else "qwenctl config show")
    return [row for row in rows if not wanted or set(wanted) & set(row.words)]


def _rows(root: Any, command: Command, settings: Settings, arguments: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of one command line, with values and sources as click finds them when the command runs."""
    context = typer.Context(
        command.called,
        typer.Context(root, info_name="qwenctl"),
        " ".join(command.path),
        default_map=settings.defaults(command.path),
    )
    given, _, _ = command.called.make_parser(context).parse_args(args=list(arguments))
    for setting in command.settings:
        option = setting.option
        typed, source = option.consume_value(context, given)
        value, _ = option.handle_parse_result(context, given, [])
        origin = {"COMMANDLINE": "command line", "DEFAULT": "default"}.get(source.name)
        origin = origin or settings.values[command.path, option.name].origin
        # A value that stands for none is shown as it was given, and no list as none.
        yield Row(command.name, setting.name, _plain(typed if value is None or typed is None else value), origin)


def _plain(value: Any) -> Any:
    """`value` in types of TOML and JSON."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


# ------------------------------------------------------------------ as text


def as_toml(rows: Sequence[Row], unused: Sequence[str], *, origin: bool) -> str:
    """The rows as tables of TOML, with the origins as comments; what is not set is a comment too."""
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
    """`value` as TOML writes it: JSON, but for the one control character that JSON leaves alone."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_HEAD = """\
# Settings of qwenctl. Lines that start with # are comments; remove the # to set a value.
#
# Command-line options win over environment variables (QWENCTL_CHAT_TEMP, QWENCTL_TEMP), those over qwenctl.toml in the
# current folder, and that over this file. `qwenctl config show --origin` shows each value and where it comes from.
#
# Keys above the first [table] apply to every command that has such an option. Options of several commands:
"""


def example(commands: Sequence[Command]) -> str:
    """The text of a file to begin with: every setting as a comment, with its meaning and its default."""
    counts = Counter(setting.name for command in commands for setting in command.settings)
    shared = ", ".join(sorted(name for name, count in counts.items() if count > 1))
    return "\n".join([f"{_HEAD}# {shared}.", *(line for command in commands for line in _table(command))]) + "\n"


def _table(command: Command) -> Iterator[str]:
    yield from ("", f"[{command.name}]") if command.settings else ()
    for setting in command.settings:
        meaning = (setting.option.help or "").splitlines()
        yield from ("", *(f"# {line}" for line in meaning), f"# {setting.name} = {_example_value(setting)}")


def _example_value(setting: Setting) -> str:
    """The default, or what stands for a value where there is none."""
    if setting.option.default is not None:
        return toml_text(setting.option.default)
    name = (setting.option.metavar or "").strip("[]") or "VALUE"
    return {"number": name, "list": f'["{name}"]'}.get(setting.kind, f'"{name}"')


def write_new(path: Path, text: str) -> None:
    """Write `text` to a new file, whole or not at all. Raises QwenctlError if there is one already."""
    if os.path.lexists(path):
        raise QwenctlError(f"{path} already exists", f"rm {shlex.quote(str(path))}", ExitCode.CANNOT_CREATE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, text.encode())
    except OSError as error:
        reason = f"cannot write {path} ({(error.strerror or str(error)).lower()})"
        raise QwenctlError(reason, "qwenctl config path", ExitCode.CANNOT_CREATE) from error
