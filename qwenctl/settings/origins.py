"""What every setting is now, and why: from the command line, the environment, a file, or by default.

Settings come in, with words that choose among them or are a command line; rows go out, as values or as TOML and JSON.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import write_private
from qwenctl.settings.declared_options import Command, Setting, configurable_commands
from qwenctl.settings.resolve import Settings
from qwenctl.settings.sources import ResolvedValue


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
        return _of_command_line(root, commands, settings, words)
    rows = [row for command in commands for row in _rows(command, settings, {})]
    wanted = [word.replace("_", "-") for word in words]
    for word in wanted:
        if not any(word in row.words for row in rows):
            raise _no_setting(word, rows)
    return [row for row in rows if not wanted or set(wanted) & set(row.words)]


def _of_command_line(root: Any, commands: Sequence[Command], settings: Settings, words: Sequence[str]) -> list[Row]:
    calls = [command for command in commands if command.path == tuple(words[: len(command.path)])]
    if not calls:
        raise QwenctlError(f"no command '{words[0]}'", "qwenctl config show -- chat --temp 0.7")
    command = max(calls, key=lambda call: len(call.path))
    called = dict(configurable_commands(root))[command.path]
    context = typer.Context(called, typer.Context(root, info_name="qwenctl"), " ".join(command.path))
    flags, _, _ = called.make_parser(context).parse_args(args=list(words[len(command.path) :]))
    return _rows(command, settings, {setting.field: _flag(command, setting, flags) for setting in command.settings})


def _flag(command: Command, setting: Setting, flags: Mapping[str, Any]) -> ResolvedValue | None:
    """Raises QwenctlError if the option has a wrong value."""
    if flags.get(setting.field) is None:
        return None
    given = flags[setting.field]
    try:
        return ResolvedValue(given, setting.check(given), "command line")
    except QwenctlError as error:
        raise QwenctlError(f"--{setting.name}: {error.message}", command.help, ExitCode.USAGE) from error


def _rows(command: Command, settings: Settings, flags: Mapping[str, ResolvedValue | None]) -> list[Row]:
    rows = []
    for setting in command.settings:
        value = flags.get(setting.field) or settings.values.get((command.path, setting.field))
        origin = value.origin if value else "default"
        rows.append(Row(command.name, setting.name, _plain(value or _default(setting)), origin))
    return rows


def _default(setting: Setting) -> ResolvedValue:
    """A default that is text is taken as if it had been typed."""
    default = setting.default
    return ResolvedValue(
        default, setting.check(default) if isinstance(default, str) and default else default, "default"
    )


def _plain(value: ResolvedValue) -> Any:
    """As the command gets it; a value that stands for none is shown as it was given."""
    return _written(value.given if value.parsed is None else value.parsed)


def _written(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_written(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _no_setting(word: str, rows: Sequence[Row]) -> QwenctlError:
    import difflib

    near = difflib.get_close_matches(word[:80], {word for row in rows for word in row.words}, n=1)
    return QwenctlError(f"no setting '{word}'", f"did you mean '{near[0]}'?" if near else "qwenctl config show")


# ------------------------------------------------------------------ as text


def as_json(rows: Sequence[Row], unused: Sequence[str]) -> dict[str, Any]:
    """The rows and the variables that nothing reads, as JSON's types."""
    fields = [{"command": row.command, "key": row.key, "value": row.value, "origin": row.origin} for row in rows]
    return {"settings": fields, "unused": list(unused)}


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
# Settings of qwenctl. A line that begins with # changes nothing; take the # away to set a value.
#
# An option on the command line comes first, then a variable of the environment (QWENCTL_CHAT_TEMP, QWENCTL_TEMP), then
# qwenctl.toml in the current folder, then this file. `qwenctl config show --origin` shows what holds, and why.
#
# Above the first [table] a key holds for every command that has such an option. Several have these:
"""


def example(commands: Sequence[Command]) -> str:
    """The text of the file."""
    counts = Counter(setting.name for command in commands for setting in command.settings)
    shared = ", ".join(sorted(name for name, count in counts.items() if count > 1))
    return "\n".join([f"{_HEAD}# {shared}.", *(line for command in commands for line in _table(command))]) + "\n"


def write_new(path: Path, text: str) -> None:
    """Write `text` to a new file, whole or not at all. Raises QwenctlError if there is one already."""
    if os.path.lexists(path):
        raise QwenctlError(f"{path} exists already", f"rm {shlex.quote(str(path))}", ExitCode.CANNOT_CREATE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, text.encode())
    except OSError as error:
        reason = f"cannot write {path} ({(error.strerror or str(error)).lower()})"
        raise QwenctlError(reason, "qwenctl config path", ExitCode.CANNOT_CREATE) from error


def _table(command: Command) -> Iterator[str]:
    yield from ("", f"[{command.name}]") if command.settings else ()
    for setting in command.settings:
        yield ""
        yield from (f"# {line}" for line in setting.meaning.splitlines())
        yield f"# {setting.name} = {_value(setting)}"


def _value(setting: Setting) -> str:
    """The default, or what stands for a value where there is none."""
    if setting.default is not None:
        return toml_text(setting.default)
    name = setting.metavar.strip("[]") or "VALUE"
    return {"number": name, "list": f'["{name}"]'}.get(setting.kind, f'"{name}"')
