"""Makes text of a model or a file safe to write to a terminal, and decodes bytes.

Text comes in, in pieces cut anywhere. The same text goes out without control characters except newline and tab, without
escape sequences (ECMA-48: CSI, OSC, DCS, APC, PM, SOS and the short ones, after ESC or as C1 characters), and without
the marks that change the direction of writing. Where the text goes is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

_State = Literal["text", "escape", "control", "string", "string end"]

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ESCAPE, _STRING_TERMINATOR = "\x1b", "\x9c"
_STRING_ENDS = "\x07\x18\x1a" + _STRING_TERMINATOR  # BEL ends an OSC; CAN and SUB end any sequence
_AFTER_ESCAPE: dict[str, _State] = {"[": "control", **dict.fromkeys("]PX^_", "string")}
_C1: dict[str, _State] = {"\x9b": "control", **dict.fromkeys("\x90\x98\x9d\x9e\x9f", "string")}


class TerminalCleaner:
    """Cleans one stream of text; an escape sequence may start in one piece and end in another."""

    def __init__(self) -> None:
        self._state: _State = "text"

    def feed(self, text: str) -> str:
        """Return the part of `text` that is safe to show."""
        if self._state == "text" and not _UNSAFE.search(text):
            return text
        shown = []
        for character in text:
            self._state, visible = _step(self._state, character)
            if visible:
                shown.append(character)
        return "".join(shown)


def clean(text: str) -> str:
    """Return a whole text without anything that is unsafe to show."""
    return TerminalCleaner().feed(text)


def clean_line(text: str) -> str:
    """Return a whole text on one line, safe to show: for names of files and models inside a message."""
    return " ".join(clean(text).split())


def _step(state: _State, character: str) -> tuple[_State, bool]:
    """Return the state after `character`, and whether to show it."""
    match state:
        case "escape":
            if " " <= character <= "/":
                return "escape", False
            return (_AFTER_ESCAPE.get(character, "text"), False) if "0" <= character <= "~" else _plain(character)
        case "control":
            if " " <= character <= "~":
                return ("control" if character <= "?" else "text"), False
            return _plain(character)
        case "string":
            # A string without an end must not swallow the answer: it ends at the end of its line.
            if character == "\n":
                return "text", True
            if character == _ESCAPE:
                return "string end", False
            return ("text" if character in _STRING_ENDS else "string"), False
        case "string end":
            return ("text", False) if character == "\\" else _step("escape", character)
        case _:
            return _plain(character)


def _plain(character: str) -> tuple[_State, bool]:
    """Handle one character outside an escape sequence."""
    if character == _ESCAPE:
        return "escape", False
    return _C1.get(character, "text"), not _UNSAFE.match(character)


def truncate_middle(text: str, max_length: int = 1600) -> str:
    """Shorten a text of more than `max_length` characters: its start, how much is left out, and its end."""
    if len(text) <= max_length:
        return text
    half = max_length // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters …\n{text[-half:]}"


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(data: bytes, warn: Callable[[str], None]) -> str:
    """Decode UTF-8, without a byte order mark; bytes that are not UTF-8 become U+FFFD, with one call of `warn`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = data.decode("utf-8-sig", "replace")
        replaced = text.count(_REPLACEMENT) - data.count(_REPLACEMENT.encode())
        warn(f"stdin byte {error.start:,} is not UTF-8; {replaced:,} character{'s' * (replaced != 1)} replaced")
        return text


def replace_surrogates(text: str) -> str:
    """Replace each byte that Python could not decode and stored as a surrogate (PEP 383) by U+FFFD."""
    return _SURROGATE.sub(_REPLACEMENT, text)
