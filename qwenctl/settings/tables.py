"""Which keys of a TOML file are settings: those at its top hold for all commands, those of a table for one.

Declared commands and a file come in; what is said in it goes out, for one command before for all, and a problem for
whatever else stands in it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.settings.declared_options import Command, Setting, nearest
from qwenctl.settings.sources import Problem, Said
from qwenctl.settings.toml import TomlFile

_SHOWN_CHARACTERS = 60
Keys = tuple[str, ...]


def said_by_file(
    commands: Sequence[Command], file: TomlFile, refused: Collection[str] = ()
) -> Iterator[Said | Problem]:
    """The settings that `file` has; those named in `refused` it may not have."""
    if file.problem:
        yield Problem(file.problem)
    else:
        yield from _Reader(file, {command.path: command for command in commands}, refused).top()


@dataclass(frozen=True)
class _Reader:
    file: TomlFile
    commands: Mapping[Keys, Command]
    refused: Collection[str]

    def top(self) -> Iterator[Said | Problem]:
        yield from self._twice((), self.file.values)
        for key, value in self.file.values.items():
            if (_word(key),) in self.commands:
                yield from self._table((key,), value)
        for key, value in self.file.values.items():
            if (_word(key),) not in self.commands:
                takers = [(command, found) for command in self.commands.values() if (found := command.find(key))]
                yield from self._key((key,), takers, value)

    def _table(self, keys: Keys, table: Any) -> Iterator[Said | Problem]:
        path = tuple(map(_word, keys))
        command = self.commands[path]
        if not isinstance(table, dict):
            yield self._problem(
                keys, f"'{keys[-1]}' is a command", f"[{command.name}] begins the table of its settings"
            )
            return
        yield from self._twice(keys, table)
        for key, value in table.items():
            if (*path, _word(key)) in self.commands:
                yield from self._table((*keys, key), value)
            else:
                found = command.find(key)
                yield from self._key((*keys, key), [(command, found)] if found else [], value)

    def _key(self, keys: Keys, takers: list[tuple[Command, Setting]], value: Any) -> Iterator[Said | Problem]:
        if not takers:
            yield self._unknown(keys, value)
        elif (name := takers[0][1].name) in self.refused:
            hint = f"give --{name}, or put it into the user's file: `qwenctl config path` names it"
            yield self._problem(keys, f"'{keys[-1]}' is not taken from a file in the current folder", hint)
        else:
            place = self.file.place(keys)
            for command, setting in takers:
                yield Said(command, setting, value, place, f"{place} {keys[-1]}", from_file=True)

    def _twice(self, keys: Keys, table: Mapping[str, Any]) -> Iterator[Problem]:
        """ctx-size and ctx_size are one key for us, two for TOML."""
        first: dict[str, str] = {}
        for key in table:
            before = first.setdefault(_word(key), key)
            if before != key:
                where = self.file.place((*keys, before))
                yield self._problem(
                    (*keys, key), f"'{key}' is the same key as '{before}'", f"{where} has the other one"
                )

    def _unknown(self, keys: Keys, value: Any) -> Problem:
        path = tuple(map(_word, keys[:-1]))
        here = [self.commands[path]] if path else list(self.commands.values())
        if any(_word(keys[-1]) in command.unsettable for command in here):
            hint = f"give --{_word(keys[-1])} when it is wanted"
            return self._problem(keys, f"'{keys[-1]}' can only be given on the command line", hint)
        kind = "table" if isinstance(value, dict) else "key"
        hint = self._belongs_elsewhere(keys) if path else ""
        return self._problem(keys, f"unknown {kind} '{_short(keys[-1])}'", hint or self._like(keys[-1], path, here))

    def _belongs_elsewhere(self, keys: Keys) -> str:
        owners = [command.name for command in self.commands.values() if command.find(keys[-1])]
        return f"'{_word(keys[-1])}' belongs under [{owners[0]}]" if owners else ""

    def _like(self, key: str, path: Keys, commands: list[Command]) -> str:
        inner = [one[-1] for one in self.commands if one[:-1] == path]
        tables = difflib.get_close_matches(_word(key)[:_SHOWN_CHARACTERS], inner, n=1)
        setting = nearest(key, [setting for command in commands for setting in command.settings])
        near = tables[0] if tables else setting.name if setting else ""
        return f"did you mean '{near}'?" if near else "`qwenctl config show` lists all keys"

    def _problem(self, keys: Keys, what: str, hint: str) -> Problem:
        return Problem(QwenctlError(f"{self.file.place(keys)} {what}", hint, ExitCode.CONFIG))


def _word(key: str) -> str:
    return key.replace("_", "-")


def _short(key: str) -> str:
    return key if len(key) <= _SHOWN_CHARACTERS else f"{key[:_SHOWN_CHARACTERS]}…"
