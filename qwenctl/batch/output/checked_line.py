"""A line of JSON with a checksum of itself at its end, by which damage on the disk is found.

Fields go in and a line comes out, and the other way round. Lines of earlier releases have no checksum and are read too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from quantize.foreign_json import BadJSON, parse_object

_BEGIN, _END = b', "check": "', b'"}\n'
_DIGITS = 16
_SUFFIX_BYTES = len(_BEGIN) + _DIGITS + len(_END)


def to_checked_line(fields: Mapping[str, Any]) -> bytes:
    """The line, newline included, of an object that is not empty; its last field, `check`, covers all before it."""
    body = json.dumps(fields, ensure_ascii=True).encode()
    return body[:-1] + _BEGIN + _digest(body) + _END


def parse_checked_line(line: bytes) -> dict[str, Any] | None:
    """The fields of a line without `check`; None if it is torn or damaged, or no object."""
    body, has_check = line, False
    suffix = line[-_SUFFIX_BYTES:]
    if suffix.startswith(_BEGIN) and suffix.endswith(_END):
        body, has_check = line[:-_SUFFIX_BYTES] + b"}", True
        if _digest(body) != suffix[len(_BEGIN) : -len(_END)]:
            return None
    try:
        fields = parse_object(body)
    except BadJSON:
        return None
    return None if "check" in fields and not has_check else fields


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGITS // 2).hexdigest().encode()
