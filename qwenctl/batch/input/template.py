"""Templates such as 'Translate {text} into {lang}': names in braces stand for a record's fields, {{ and }} for braces.

A template and fields come in, text goes out. Only names are supported: no attributes, indices or format specifiers, so
that a template can do nothing but insert text.
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
    """A parsed template: `parts` are literal texts, each with the name of the field that follows it, if any."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str, option: str) -> Template:
        """Parse a template, the value of `option`. Raises QwenctlError if it is not one."""
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
        """The names of all fields in it."""
        return frozenset(name for _, name in self.parts if name is not None)

    def fill(self, fields: Mapping[str, Any]) -> str:
        """The text with the fields inserted, as JSON if they are not strings. Raises MissingField."""
        return "".join(before + (self._value(fields, name) if name is not None else "") for before, name in self.parts)

    def _value(self, fields: Mapping[str, Any], name: str) -> str:
        if name not in fields:
            raise MissingField(name)
        value = fields[name]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
