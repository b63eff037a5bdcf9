"""Text from outside, marked character by character, so that a template may read it and its origin is still known.

Every character that occurs in a control token is replaced by a twin: an unassigned code point that occurs nowhere else
in the prompt. Twins survive whatever a template does with a text, and a control token spelled with one of them is none.
To the template, a `MarkedText` is the text itself: what it reads is the original, what it takes from it stays marked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

import jinja2

_FIRST_TWIN, _END_OF_TWINS = 0x40000, 0xE0000  # planes 4 to 13, where no character is assigned


class Alphabet:
    """The twins of one prompt: of each character in `special_tokens`, none of them in `texts`."""

    def __init__(self, special_tokens: Iterable[str], texts: Iterable[str]) -> None:
        used = {char for text in texts if not text.isascii() for char in set(text) if ord(char) >= _FIRST_TWIN}
        self._free = (chr(code) for code in range(_FIRST_TWIN, _END_OF_TWINS) if chr(code) not in used)
        self.special_chars = frozenset("".join(special_tokens))
        self._twins = {ord(char): next(self._free) for char in sorted(self.special_chars)}
        self._originals: dict[int, str] = {ord(twin): chr(char) for char, twin in self._twins.items()}
        self._marks: dict[int, str] = {}
        self._special = _char_class(self.special_chars)
        self._special_pattern = re.compile(self._special)
        self._twin_pattern = re.compile(f"[{chr(_FIRST_TWIN)}-{chr(_END_OF_TWINS)}]")

    def text(self, original: str, marks: Mapping[int, str] | None = None) -> str:
        """`original` marked: a `MarkedText`, or itself if nothing in it can be a part of a control token.

        `marks` made by `mark` take the place of single characters.
        """
        twins = original.translate(self._twins)
        if marks:
            pieces = list(twins)
            for at, mark in marks.items():
                pieces[at] = mark
            twins = "".join(pieces)
        made = self.restore_type(twins)
        if isinstance(made, MarkedText):
            made.remember(original)
        return made

    def mark(self, original: str) -> str:
        """A new twin of the one character `original`; of "", a mark that is not seen in the prompt."""
        twin = next(self._free)
        self._originals[ord(twin)] = self._marks[ord(twin)] = original
        return twin

    def restore_type(self, text: str) -> str:
        """`text` as a `MarkedText` if it has twins: what Python's own functions return is a plain `str`."""
        if isinstance(text, MarkedText) or text.isascii() or self._twin_pattern.search(text) is None:
            return text
        return MarkedText(text, self)

    def original(self, text: str) -> str:
        """`text` without twins and marks."""
        return str.translate(text, self._originals)

    def visible(self, text: str) -> str:
        """`text` without twins, as long as before: a mark that is not seen is one character of no kind."""
        return str.translate(text, {code: char or "\ufffc" for code, char in self._originals.items()})

    def is_from_outside(self, text: str) -> bool:
        """Whether all of `text` that could be a part of a control token is marked."""
        return self._special_pattern.search(text) is None

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """The parts of `text`, with twins, and whether each is from outside; a part begins at each mark."""
        marks = _char_class(map(chr, self._marks))
        # A part from outside begins at a twin; characters that are in no control token may belong to either side.
        not_special = f"(?!{marks})(?!{self._special})"
        done = 0
        for found in re.finditer(f"{_char_class(map(chr, self._originals))}(?:{not_special}.)*", text, re.DOTALL):
            if done < found.start():
                yield text[done : found.start()], False
            yield found[0], True
            done = found.end()
        if done < len(text):
            yield text[done:], False


def _char_class(chars: Iterable[str]) -> str:
    """A regex for one of `chars`; it never matches if there are none."""
    escaped = "".join(map(re.escape, sorted(chars)))
    return f"[{escaped}]" if escaped else "(?!)"


def original_of(value: Any) -> Any:
    """`value`, or the original if it is a `MarkedText`; also inside a tuple or list."""
    if isinstance(value, MarkedText):
        return value.read()
    return type(value)(map(original_of, value)) if type(value) in (tuple, list) else value


class MarkedText(str):
    """A text with twins. Its methods see the original; what they return is marked where this text is."""

    __slots__ = ("_alphabet", "_original")
    _alphabet: Alphabet
    _original: str | None

    def __new__(cls, text: str, alphabet: Alphabet) -> MarkedText:
        """`text` has twins of the `alphabet`."""
        made = super().__new__(cls, text)
        made._alphabet, made._original = alphabet, None
        return made

    def read(self) -> str:
        """The original, of the same length."""
        if self._original is None:
            self._original = self._alphabet.visible(self)
        return self._original

    def remember(self, original: str) -> None:
        """`original` is what `read` would find."""
        self._original = original

    def __hash__(self) -> int:
        return hash(self.read())

    def __str__(self) -> str:
        return self

    def __repr__(self) -> str:
        original = self.read()
        quote = repr(original)[0]

        def escaped(twin: str, char: str) -> str:
            if char == quote:
                return f"\\{twin}"
            return twin if repr(char)[1:-1] == char else self._alphabet.text(repr(char)[1:-1])

        return quote + "".join(map(escaped, str.__iter__(self), original)) + quote

    def __iter__(self) -> Iterator[str]:
        return map(self._again, str.__iter__(self))

    def __getitem__(self, at: SupportsIndex | slice) -> str:
        part = self._again(str.__getitem__(self, at))
        if isinstance(part, MarkedText) and self._original is not None:
            part._original = self._original[at]
        return part

    def __add__(self, other: str) -> str:
        return self._sum(self, other)

    def __radd__(self, other: str) -> str:
        return self._sum(other, self)

    def __mul__(self, times: SupportsIndex) -> str:
        return self._again(str.__mul__(self, times))

    __rmul__ = __mul__

    def join(self, texts: Iterable[str]) -> str:
        """As `str.join`."""
        return self._again(str.join(self, texts))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As `str.split`."""
        return self._parts(self.read().split(original_of(sep), maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As `str.rsplit`."""
        return self._parts(self.read().rsplit(original_of(sep), maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        """As `str.splitlines`."""
        whole = self._parts(self.read().splitlines(keepends=True), "")
        if keepends:
            return whole
        lines = self.read().splitlines()
        return [line[: len(text)] for line, text in zip(whole, lines, strict=True)]

    def partition(self, sep: str) -> tuple[str, str, str]:
        """As `str.partition`."""
        before, middle, after = self._parts(list(self.read().partition(original_of(sep))), "")
        return before, middle, after

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        """As `str.rpartition`."""
        before, middle, after = self._parts(list(self.read().rpartition(original_of(sep))), "")
        return before, middle, after

    def lstrip(self, chars: str | None = None) -> str:
        """As `str.lstrip`."""
        return self[len(self) - len(self.read().lstrip(original_of(chars))) :]

    def rstrip(self, chars: str | None = None) -> str:
        """As `str.rstrip`."""
        return self[: len(self.read().rstrip(original_of(chars)))]

    def strip(self, chars: str | None = None) -> str:
        """As `str.strip`."""
        return self.rstrip(chars).lstrip(chars)

    def removeprefix(self, prefix: str) -> str:
        """As `str.removeprefix`."""
        return self[len(prefix) :] if self.read().startswith(original_of(prefix)) else self

    def removesuffix(self, suffix: str) -> str:
        """As `str.removesuffix`."""
        return self[: len(self) - len(suffix)] if suffix and self.read().endswith(original_of(suffix)) else self

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        """As `str.replace`. Raises jinja2.TemplateError if `old` is empty."""
        if not old:
            raise jinja2.TemplateError("it replaces an empty text in a message")
        return self._again(str.join(new, self.split(old, count)))

    def whole(self, change: Callable[[str], Any]) -> Any:
        """What `change` makes of the original, marked. Raises jinja2.TemplateError if this is partly the template's."""
        changed = change(self.read())
        if not isinstance(changed, str):
            return changed
        if not self._alphabet.is_from_outside(self):
            raise jinja2.TemplateError("it changes the letters of a text that is partly its own")
        return self._alphabet.text(str(changed))

    def _again(self, text: str) -> str:
        return self._alphabet.restore_type(text)

    def _sum(self, first: str, second: str) -> str:
        added = self._again(str.__add__(first, second))
        if isinstance(added, MarkedText) and all(
            type(one) is not MarkedText or one._original for one in (first, second)
        ):
            added._original = original_of(first) + original_of(second)
        return added

    def _parts(self, texts: list[str], separator: str | None) -> list[str]:
        """The slices of this text that read as `texts`, which follow each other with `separator` or space between."""
        parts, at = [], 0
        for text in texts:
            if separator is None:
                at = self.read().index(text, at)
            parts.append(self[at : at + len(text)])
            at += len(text) + len(separator or "")
        return parts


def _reading(name: str) -> Callable[..., Any]:
    """The method `name` of `str`, of the originals."""
    method = getattr(str, name)

    def read(self: MarkedText, *arguments: Any) -> Any:
        return method(self.read(), *map(original_of, arguments))

    return read


def _changing(name: str) -> Callable[..., Any]:
    """The method `name` of `str`, which changes letters."""
    return lambda self: self.whole(getattr(str, name))


def _padding(name: str) -> Callable[..., Any]:
    """The method `name` of `str`, to which twins are letters as any other."""
    method = getattr(str, name)
    return lambda self, *arguments: self._again(method(self, *arguments))


_READING = "__eq__ __ne__ __lt__ __le__ __gt__ __ge__ __contains__ count endswith startswith find index rfind rindex"
_IS = "isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper"
for _name in f"{_READING} {_IS} encode".split():
    setattr(MarkedText, _name, _reading(_name))
for _name in ("upper", "lower", "capitalize", "title", "swapcase", "casefold"):
    setattr(MarkedText, _name, _changing(_name))
for _name in ("center", "ljust", "rjust", "zfill", "expandtabs", "__mod__"):
    setattr(MarkedText, _name, _padding(_name))
