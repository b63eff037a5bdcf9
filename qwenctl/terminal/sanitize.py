"""Text of a model or a file, made safe to write to a terminal.

Text comes in, in pieces cut anywhere; the same text goes out without control characters and without whole escape
sequences (ECMA-48: CSI, OSC, DCS, APC, PM, SOS and the short ones, as ESC or as C1 characters), and without the marks
that turn the direction of writing. Newline and tab stay. It knows nothing of where the text goes.
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
    """Cleans one stream of text; a sequence may begin in one piece and end in another."""

    def __init__(self) -> None:
        self._state: _State = "text"

    def feed(self, text: str) -> str:
        """What of `text` may be shown."""
        if self._state == "text" and not _UNSAFE.search(text):
            return text
        shown = []
        for character in text:
            self._state, visible = _step(self._state, character)
            if visible:
                shown.append(character)
        return "".join(shown)


def clean(text: str) -> str:
    """The whole of `text`, safe to show."""
    return TerminalCleaner().feed(text)


def clean_line(text: str) -> str:
    """The whole of `text` as one line, safe to show: for names of files and models inside a message."""
    return " ".join(clean(text).split())


def _step(state: _State, character: str) -> tuple[_State, bool]:
    """The state after `character`, and whether it is shown."""
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
            # A string that never ends must not swallow the answer: it ends with its line.
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
    """One character outside any sequence."""
    if character == _ESCAPE:
        return "escape", False
    return _C1.get(character, "text"), not _UNSAFE.match(character)


def truncate_middle(text: str, most: int = 1600) -> str:
    """The beginning and the end of a text of more than `most` characters, and between them how much is left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters …\n{text[-half:]}"


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(data: bytes, warn: Callable[[str], None]) -> str:
    """`data` as text; what is not UTF-8 becomes U+FFFD, with one warning."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = data.decode("utf-8-sig", "replace")
        replaced = text.count(_REPLACEMENT) - data.count(_REPLACEMENT.encode())
        warn(f"stdin byte {error.start:,} is not UTF-8; {replaced:,} characters replaced")
        return text


def replace_surrogates(text: str) -> str:
    """`text` with U+FFFD for each byte that Python could not decode and kept as a surrogate (PEP 383)."""
    return _SURROGATE.sub(_REPLACEMENT, text)
