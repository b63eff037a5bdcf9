"""Jinja as chat templates are written for: what transformers and llama.cpp define, in a sandbox.

A template's source and variables come in, text goes out. Nothing here limits time or memory; see `template_worker`.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwenctl.engine.prompt.marked_text import Alphabet, MarkedText, original_of

_MAX_EXPONENT = 64
# Filters that look at letters in ways of their own: they get the original.
_OF_LETTERS = ("e", "escape", "float", "forceescape", "int", "striptags", "title", "urlencode", "wordcount", "wordwrap")


class GenerationTag(Extension):
    """`{% generation %}`, with which training templates mark what the model writes: its body, unchanged."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """The tag as a call with its body, a scope of its own as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _MarkingCode(CodeGenerator):
    """Code in which `~` keeps marks."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """Join texts by the environment's `concat`."""
        self.write("environment.concat(map(str, (")
        for one in node.nodes:
            self.visit(one, frame)
            self.write(", ")
        self.write(")))")


class _TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox. With an `alphabet`, texts made of marked texts stay marked."""

    code_generator_class = _MarkingCode
    intercepted_binops = frozenset(["**"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"])
        self.now = datetime.now().astimezone()
        self.alphabet: Alphabet | None = None
        self.filters = {name: self._marking(name, given) for name, given in self.filters.items()}
        self.filters["tojson"] = self._to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = self._strftime_now
        self.concat = self._concat  # type: ignore[method-assign]  # Jinja's is a function without self

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Called for `**` only. Raises SecurityError for exponents that no chat template has a use for."""
        if not (isinstance(right, int | float) and abs(right) <= _MAX_EXPONENT):
            raise SecurityError(f"a power of {right!r:.20}")
        return super().call_binop(context, operator, left, right)

    def _strftime_now(self, format: str) -> str:  # noqa: A002 - named so in transformers
        """The local time of the rendering."""
        return self.now.replace(tzinfo=None).strftime(str(original_of(format)))

    def _concat(self, parts: Any) -> str:
        return str(self._marked("".join(parts)))

    def _marked(self, value: Any) -> Any:
        return self.alphabet.restore_type(value) if self.alphabet is not None and type(value) is str else value

    def _marking(self, name: str, given: Callable[..., Any]) -> Callable[..., Any]:
        """The filter `given`, which keeps marks."""

        @functools.wraps(given)
        def keeping(*arguments: Any, **named: Any) -> Any:
            at = next((at for at, one in enumerate(arguments) if isinstance(one, MarkedText)), None)
            if at is None or name not in _OF_LETTERS:
                return self._marked(given(*arguments, **named))
            before, after = arguments[:at], arguments[at + 1 :]
            return arguments[at].whole(lambda text: given(*before, text, *original_of(after), **named))

        return keeping

    def _to_json(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as transformers renders it in templates: no escapes for HTML or non-ASCII letters."""
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
        if ensure_ascii:
            text = re.sub(r"[^\x00-\x7f]", lambda found: self._escaped(found[0]), text)
        return str(self._marked(text))

    def _escaped(self, char: str) -> str:
        is_twin = self.alphabet is not None and isinstance(self.alphabet.restore_type(char), MarkedText)
        return char if is_twin else json.dumps(char)[1:-1]


class CompiledTemplate:
    """A chat template, compiled."""

    def __init__(self, source: str) -> None:
        """Raises jinja2.TemplateError, among others, for a source that is no template."""
        self._environment = _TemplateEnvironment()
        self._template = self._environment.from_string(source)

    def render(self, variables: Mapping[str, Any], now: datetime, alphabet: Alphabet | None = None) -> str:
        """What the template makes of the `variables`, whose texts are marked by the `alphabet` if there is one.

        The same each time: `now` is the time that it is told, and its random choices are always the same ones. Raises
        whatever the template raises.
        """
        random.seed(0)
        self._environment.now, self._environment.alphabet = now, alphabet
        return self._template.render(variables)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(str(message))
