"""Text from outside, made text that every later step can encode: whole Unicode, without lone surrogates.

Bytes of standard input, arguments of the command line and typed lines come in; nothing is known of what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable

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


def whole(text: str) -> str:
    """`text` with U+FFFD for each byte that Python could not decode and kept as a surrogate (PEP 383)."""
    return _SURROGATE.sub(_REPLACEMENT, text)
