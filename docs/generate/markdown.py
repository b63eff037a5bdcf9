"""Markdown of plain text: what is special in Markdown is escaped, code spans stay as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

HEAD = "<!-- Made from the code by `make docs`; changes here are lost. -->\n\n"


def escape(text: str) -> str:
    """`text` with the characters escaped that Markdown would take for markup, except within backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _escape(part) for part in parts)


def _escape(text: str) -> str:
    # Underscores within words, and brackets without an address, are text in every dialect.
    return re.sub(r"([\\*|]|(?<!\w)_|_(?!\w))", r"\\\1", text).replace("<", "&lt;")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table; the cells are Markdown already."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace(chr(10), ' ') for cell in line)} |\n" for line in lines)
