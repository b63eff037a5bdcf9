"""Markdown as it arrives: pieces of text come in, finished top-level blocks go out.

A block is finished when nothing that follows can change it, so that it can be shown once and never again. The text of
all blocks together is the text that came in, unchanged. Lines inside a code fence are finished one by one. This module
knows the block structure of CommonMark with tables (by markdown-it-py) and nothing of a terminal.
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
    """A finished part of the text. "fence" is the first or last line of fenced code, "code" one line inside it."""

    text: str
    kind: Literal["markdown", "fence", "code"] = "markdown"
    language: str = ""


class MarkdownStream:
    """Cuts one stream of Markdown into finished blocks; where the pieces are cut makes no difference."""

    def __init__(self) -> None:
        self._pieces: list[str] = []  # of the line that has not ended yet
        self._lines: list[str] = []  # whole lines of the open block
        self._parse_at = 1  # number of open lines at which it is worth looking for a finished block
        self._fence: Token | None = None

    @property
    def open_text(self) -> str:
        """What has come in and is not finished."""
        return "".join([*self._lines, *self._pieces])

    def feed(self, text: str) -> list[Block]:
        """Blocks that `text` has finished."""
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
        """The rest: no more text will come."""
        last = "".join(self._pieces)
        self._pieces.clear()
        blocks = list(self._add_line(last)) if last else []
        rest, self._lines = self._lines, []
        return blocks + list(_split(rest, _top_level(rest)))

    def _add_line(self, line: str) -> Iterable[Block]:
        if self._fence is not None:
            fence = self._fence
            if _closes(fence, line):
                self._fence = None
            return [_fenced(fence, line)]
        self._lines.append(line)
        return self._finished() if len(self._lines) >= self._parse_at else []

    def _finished(self) -> list[Block]:
        """Take the finished blocks from the open lines. Looking less often at longer ones keeps the cost linear."""
        tokens = _top_level(self._lines)
        done, keep_from = tokens, len(self._lines)
        if tokens and not _is_closed(tokens[-1], self._lines):
            done, keep_from = tokens[:-1], _first_line(tokens[-1])
            if tokens[-1].type == "fence":
                done, keep_from, self._fence = tokens, len(self._lines), tokens[-1]
        if not done:
            keep_from = 0
        finished, self._lines = self._lines[:keep_from], self._lines[keep_from:]
        self._parse_at = len(self._lines) + 1 + len(self._lines) // 8
        return list(_split(finished, done))


def _top_level(lines: Sequence[str]) -> list[Token]:
    """The first token of each top-level block; its `map` holds its first line and the line after its last."""
    tokens: list[Token] = []
    # A carriage return would count as the end of a line, and NUL is not text: neither changes the structure.
    source = "".join(lines).replace("\r", " ").replace("\0", " ")
    _PARSER.block.parse(source, _PARSER, {}, tokens)
    return [token for token in tokens if token.level == 0 and token.nesting >= 0 and token.map]


def _first_line(token: Token) -> int:
    return token.map[0] if token.map else 0


def _is_closed(token: Token, lines: Sequence[str]) -> bool:
    """Can no further line belong to this last block?"""
    first, after = token.map or (0, 0)
    if token.type == "fence":
        return after - first > 1 and _closes(token, lines[after - 1])
    if token.type in _CLOSED_BY_A_BLANK_LINE:
        return after < len(lines)
    return token.type in _CLOSED_BY_THEMSELVES


def _closes(fence: Token, line: str) -> bool:
    """Is `line` the end of `fence`? (CommonMark 0.31, section 4.5.)"""
    mark = fence.markup
    return re.fullmatch(rf" {{0,3}}{re.escape(mark)}{re.escape(mark[0])}*[ \t\r]*\n?", line) is not None


def _fenced(fence: Token, line: str) -> Block:
    if _closes(fence, line):
        return Block(line, "fence")
    language = fence.info.split()[0] if fence.info.split() else ""
    return Block(line, "code", language)


def _split(lines: Sequence[str], tokens: Sequence[Token]) -> Iterator[Block]:
    """`lines` as one block a token, fences line by line; lines between two blocks go with the first."""
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
        yield Block(lines[first], "fence", _fenced(token, "").language)
        yield from (_fenced(token, line) for line in lines[first + 1 : after])
        if end > after:
            yield Block("".join(lines[after:end]))
