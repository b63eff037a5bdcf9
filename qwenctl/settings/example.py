"""A file of settings to begin with: every setting as a comment, with its meaning and its value.

Declared commands come in, the text goes out. As it stands the file changes nothing.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import write_private
from qwenctl.settings.declared_options import Command, Setting
from qwenctl.settings.origins import toml_text

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
