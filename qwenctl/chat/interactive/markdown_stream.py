"""Splits streamed Markdown: pieces of text come in, finished top-level blocks go out.

A block is finished when no later text can change it, so that it can be printed once and for all. The blocks joined are
the text that came in, unchanged. Lines of a code fence are finished one by one. This module knows the block structure
of CommonMark with tables (from markdown-it-py); the terminal is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

_PARSER = MarkdownIt("commonmark").enable("table")
_CLOSED_BY_THEMSELVES = ("heading_open", "hr")
_CLOSED_BY_A_BLANK_LINE = ("paragraph_open", "blockquote_open", "table_open", "html_block")


@dataclass(frozen=True)
class Block:
    """A finished part of the text. "fence" is the first or last line of fenced code, "code" is one line inside it."""

    text: str
    kind: Literal["markdown", "fence", "code"] = "markdown"
    language: str = ""


class MarkdownStream:
    """Cuts one stream of Markdown into finished blocks, however the stream is cut into pieces."""

    def __init__(self) -> None:
        self._pieces: list[str] = []  # the line that has not ended yet
        self._lines: list[str] = []  # complete lines of the open block
        self._parse_at = 1  # number of open lines at which to look for a finished block
        self._fence: Token | None = None

    @property
    def open_text(self) -> str:
        """The text that came in and is not part of a finished block yet."""
        return "".join([*self._lines, *self._pieces])

    def feed(self, text: str) -> list[Block]:
        """Add `text`; return the blocks that it finished."""
        *ended, rest = text.split("\n")
        blocks: list[Block] = []
        for line in ended:
            whole = "".join([*self._pieces, line, "\n"])
            self._pieces.clear()
            blocks += self._add_line(whole)
        if rest:
            self._pieces.append(rest)
        return blocks

    def finish(self) -> list[Block]:
        """Return the remaining blocks: no more text will come."""
        last = "".join(self._pieces)
        self._pieces.clear()
        blocks = list(self._add_line(last)) if last else []
        rest, self._lines = self._lines, []
        return blocks + list(_split_blocks(rest, _top_level(rest)))

    def _add_line(self, line: str) -> Iterable[Block]:
        if self._fence is not None:
            fence = self._fence
            if _closes(fence, line):
                self._fence = None
            return [_fence_block(fence, line)]
        self._lines.append(line)
        return self._take_finished() if len(self._lines) >= self._parse_at else []

    def _take_finished(self) -> list[Block]:
        """Remove the finished blocks from the open lines and return them."""
        tokens = _top_level(self._lines)
        done, keep_from = tokens, len(self._lines)
        if tokens and not _is_closed(tokens[-1], self._lines):
            done, keep_from = tokens[:-1], _first_line(tokens[-1])
            if tokens[-1].type == "fence":
                done, keep_from, self._fence = tokens, len(self._lines), tokens[-1]
        if not done:
            keep_from = 0
        finished, self._lines = self._lines[:keep_from], self._lines[keep_from:]
        # Each look parses all open lines: looking less often at a longer block keeps the total cost linear.
        self._parse_at = len(self._lines) + 1 + len(self._lines) // 8
        return list(_split_blocks(finished, done))


def _top_level(lines: Sequence[str]) -> list[Token]:
    """Return the first token of each top-level block; its `map` is [first line, line after the last]."""
    tokens: list[Token] = []
    # A carriage return would count as the end of a line, and NUL is not text: neither changes the structure.
    source = "".join(lines).replace("\r", " ").replace("\0", " ")
    _PARSER.block.parse(source, _PARSER, {}, tokens)
    return [token for token in tokens if token.level == 0 and token.nesting >= 0 and token.map]


def _first_line(token: Token) -> int:
    return token.map[0] if token.map else 0


def _is_closed(token: Token, lines: Sequence[str]) -> bool:
    """Whether no further line can belong to this last block."""
    first, after = token.map or (0, 0)
    if token.type == "fence":
        return after - first > 1 and _closes(token, lines[after - 1])
    if token.type in _CLOSED_BY_A_BLANK_LINE:
        return after < len(lines)
    return token.type in _CLOSED_BY_THEMSELVES


def _closes(fence: Token, line: str) -> bool:
    """Whether `line` closes `fence` (CommonMark 0.31, section 4.5)."""
    mark = fence.markup
    return re.fullmatch(rf" {{0,3}}{re.escape(mark)}{re.escape(mark[0])}*[ \t\r]*\n?", line) is not None


def _fence_block(fence: Token, line: str) -> Block:
    if _closes(fence, line):
        return Block(line, "fence")
    language = fence.info.split()[0] if fence.info.split() else ""
    return Block(line, "code", language)


def _split_blocks(lines: Sequence[str], tokens: Sequence[Token]) -> Iterator[Block]:
    """Yield one block a token, fences line by line; lines between two blocks belong to the first."""
    if not tokens:
        if lines:
            yield Block("".join(lines))
        return
    starts = [0, *(_first_line(token) for token in tokens[1:]), len(lines)]
    for token, start, end in zip(tokens, starts, starts[1:], strict=False):
        if token.type != "fence":
            yield Block("".join(lines[start:end]))
            continue
        first, after = token.map or (start, end)
        if first > start:
            yield Block("".join(lines[start:first]))
        yield Block(lines[first], "fence", _fence_block(token, "").language)
        yield from (_fence_block(token, line) for line in lines[first + 1 : after])
        if end > after:
            yield Block("".join(lines[after:end]))
