"""Templates such as 'Translate {text} into {lang}': names in braces stand for a record's fields, {{ and }} for braces.

A text and fields come in, a text goes out. Nothing but names is understood: no attributes, no indices, no formats, so
that a template does nothing but put text where its braces are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from qwenctl.errors import QwenctlError

_NAME = re.compile(r"[^\W\d][\w -]*")


class MissingField(Exception):
    """A record lacks a field that a template names."""


@dataclass(frozen=True)
class Template:
    """The parts of a template: each a text and the name of the field behind it, if there is one."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str, option: str) -> Template:
        """Read a template, which `option` gave. Raises QwenctlError."""
        hint = "{name} stands for the field of that name, {{ and }} for braces"
        try:
            found = [(before, name, spec, how) for before, name, spec, how in Formatter().parse(text)]
        except ValueError as error:
            raise QwenctlError(f"{option} is not a template: {str(error).lower()}", hint) from error
        for _, name, spec, how in found:
            if name is not None and (spec or how or not _NAME.fullmatch(name)):
                raise QwenctlError(f"{option} is not a template: {{{name}}} is not the name of a field", hint)
        return cls(tuple((before, name) for before, name, _, _ in found))

    @property
    def names(self) -> frozenset[str]:
        """The fields that it names."""
        return frozenset(name for _, name in self.parts if name is not None)

    def fill(self, fields: Mapping[str, Any]) -> str:
        """The text with the fields in their places. Raises MissingField."""
        return "".join(before + (self._value(fields, name) if name is not None else "") for before, name in self.parts)

    def _value(self, fields: Mapping[str, Any], name: str) -> str:
        if name not in fields:
            raise MissingField(name)
        value = fields[name]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
