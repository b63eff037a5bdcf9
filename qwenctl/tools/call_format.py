"""The call format of Qwen3.5, 3.6 and 3.8, read strictly (docs/internals/tool-calls.md has the grammar):

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

Values are not escaped, so a value may contain any of the tags. The text of the calls comes in; names and texts of
arguments go out, or a `BrokenCall` if more than one reading is plausible. What a value means is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

# A tag, or something that a model may have written in place of one; a name is short, which bounds the search.
_TAG = re.compile(
    r"<\s{0,8}(?P<closes>/?)\s{0,8}(?P<word>tool_call|function|parameter|param)\b(?P<rest>[^<>\n]{0,256})>",
    re.IGNORECASE,
)
_SPELLED_END = re.compile(r"\s*(</?tool_call>)")
_TEXT_AFTER_CALL = "text after a call is not read: write nothing after the calls"

_Kind = Literal["tool_call", "function", "parameter", "near miss"]


class BrokenCall(Exception):
    """The text does not follow the format, or not for certain; the message says why, for the model."""


@dataclass(frozen=True)
class RawCall:
    """A call whose arguments are text, in order."""

    name: str
    arguments: dict[str, str]


@dataclass(frozen=True)
class _Tag:
    """A tag at `start` to `end`. `follows` says that only white space is between it and the tag before."""

    start: int
    end: int
    kind: _Kind
    closes: bool
    name: str
    follows: bool
    starts_line: bool  # with or without indentation
    is_line: bool  # nothing else is on its line, not even indentation


def read_calls(
    text: str, declares: Callable[[str, str], bool], control_offsets: Collection[int] | None = None
) -> tuple[list[RawCall], str]:
    """Read all calls in `text`; return them, and what is wrong with the text around them ("": nothing).

    `declares(function, parameter)` says whether a function has a parameter. `control_offsets` are the indices of
    <tool_call> and </tool_call> that the model wrote as control tokens: others are text (None: not known). Raises
    BrokenCall if a call cannot be delimited for certain.
    """
    return _Reader(text, declares, control_offsets).read()


def has_bare_call(text: str, names: Collection[str]) -> bool:
    """Whether `text` has a call of a function in `names` without its <tool_call>, other than in a code block."""
    tags = _find_tags(text, None)
    for tag, after in pairwise(tags):
        if tag.kind == "function" and not tag.closes and tag.name in names and tag.starts_line and after.follows:
            fences = sum(line.lstrip().startswith(("```", "~~~")) for line in text[: tag.start].splitlines())
            return fences % 2 == 0
    return False


class _Reader:
    """Reads the tags of one text from left to right."""

    def __init__(
        self, text: str, declares: Callable[[str, str], bool], control_offsets: Collection[int] | None
    ) -> None:
        self._text, self._declares, self._controls = text, declares, control_offsets
        self._tags = _find_tags(text, control_offsets)
        self._at = 0  # index of the next tag

    def read(self) -> tuple[list[RawCall], str]:
        """All calls; raises BrokenCall."""
        calls, problem, end = list[RawCall](), "", 0
        while (tag := self._next_tag()) is not None:
            if tag.kind != "tool_call" or tag.closes:
                raise BrokenCall(f"there is {self._spelling(tag)} after the end of a call")
            problem = problem or (_TEXT_AFTER_CALL if self._text[end : tag.start].strip() else "")
            calls.append(self._read_call())
            end = self._tags[self._at - 1].end
        return calls, problem or (_TEXT_AFTER_CALL if self._text[end:].strip() else "")

    def _read_call(self) -> RawCall:
        function = self._next_tag()
        if function is None or function.kind != "function" or function.closes or not function.follows:
            raise BrokenCall("the call has no <function=NAME>")
        arguments: dict[str, str] = {}
        while (tag := self._next_tag()) is not None and tag.follows:
            if tag.kind == "parameter" and not tag.closes:
                self._check_key(function.name, tag.name, arguments)
                arguments[tag.name] = self._read_value(function.name, tag)
            elif tag.kind == "function" and tag.closes:
                self._skip_call_end()
                return RawCall(function.name, arguments)
            elif tag.kind == "tool_call":
                break
            else:
                raise BrokenCall(f"{self._spelling(tag)} is where <parameter=KEY> or </function> must be")
        raise BrokenCall("the call is not closed by </function>")

    def _check_key(self, function: str, key: str, arguments: dict[str, str]) -> None:
        """Raise BrokenCall if what looks like the next parameter may be a part of the value before it."""
        if key in arguments:
            raise BrokenCall(f"the parameter {key!r} is given twice, or a value contains its tags")
        if arguments and not self._declares(function, key):
            raise BrokenCall(f"{function} has no parameter {key!r}, or a value contains its tags")

    def _read_value(self, function: str, opening: _Tag) -> str:
        """The value after `opening`; raises BrokenCall if a tag in it may be meant as one."""
        begin = opening.end + self._text.startswith("\n", opening.end)
        while (tag := self._next_tag()) is not None:
            if tag.kind == "parameter" and tag.closes and self._is_closing(tag):
                if not self._is_spelled_end():
                    end = tag.start - self._text.startswith("\n", tag.start - 1)
                    return self._text[begin : max(begin, end)]
                self._at += 1
            elif self._is_plausible(function, opening, tag):
                raise BrokenCall(
                    f"the parameter {opening.name!r} is not closed by </parameter>, or its value contains "
                    f"{self._spelling(tag)}"
                )
        raise BrokenCall(f"the parameter {opening.name!r} is not closed by </parameter>")

    def _is_plausible(self, function: str, opening: _Tag, tag: _Tag) -> bool:
        """Whether a tag within a value may be meant as one, because what must come before it was forgotten."""
        if tag.kind == "near miss" or (tag.kind == "parameter" and tag.closes):
            return False
        if tag.closes:
            return self._is_closing(tag)
        if tag.kind == "parameter":
            return tag.starts_line or (tag.name != opening.name and self._declares(function, tag.name))
        return (tag.kind == "function" and tag.starts_line) or self._precedes_tag()

    def _is_closing(self, tag: _Tag) -> bool:
        """Whether a closing tag may end something: it is alone on its line, or another tag or the end follows."""
        return tag.is_line or self._precedes_tag()

    def _precedes_tag(self) -> bool:
        """Whether only white space is between the last tag read and the next one, or the end of the text."""
        if self._at < len(self._tags):
            return self._tags[self._at].follows
        return not self._text[self._tags[-1].end :].strip()

    def _is_spelled_end(self) -> bool:
        """Whether a </tool_call> that is no control token follows the next tag: then this is the text of a value."""
        if self._controls is None or self._at >= len(self._tags):
            return False
        end = _SPELLED_END.match(self._text, self._tags[self._at].end)
        return end is not None and end.start(1) not in self._controls

    def _skip_call_end(self) -> None:
        if self._at < len(self._tags):
            tag = self._tags[self._at]
            self._at += tag.kind == "tool_call" and tag.closes and tag.follows

    def _next_tag(self) -> _Tag | None:
        if self._at >= len(self._tags):
            return None
        self._at += 1
        return self._tags[self._at - 1]

    def _spelling(self, tag: _Tag) -> str:
        return self._text[tag.start : tag.end]


def _find_tags(text: str, control_offsets: Collection[int] | None) -> Sequence[_Tag]:
    return tuple(_iterate_tags(text, control_offsets))


def _iterate_tags(text: str, control_offsets: Collection[int] | None) -> Iterator[_Tag]:
    before = 0  # the end of the last tag
    for match in _TAG.finditer(text):
        kind = _kind(match)
        if kind == "tool_call" and control_offsets is not None and match.start() not in control_offsets:
            continue  # ordinary tokens that spell a control token
        gap = text[before : match.start()]
        line = gap[gap.rfind("\n") + 1 :]
        at_start = not line.strip() and ("\n" in gap or not before)
        is_line = at_start and not line and (match.end() == len(text) or text[match.end()] == "\n")
        name = match["rest"][1:].strip()
        yield _Tag(match.start(), match.end(), kind, bool(match["closes"]), name, not gap.strip(), at_start, is_line)
        before = match.end()


def _kind(match: re.Match[str]) -> _Kind:
    """What a tag is; one that is not spelled exactly as in the format is a near miss."""
    word, spelled = match["word"], match[0]
    if word == "tool_call" and spelled in ("<tool_call>", "</tool_call>"):
        return "tool_call"
    for kind in ("function", "parameter"):
        if spelled == f"</{kind}>" or spelled.startswith(f"<{kind}="):
            return "function" if kind == "function" else "parameter"
    return "near miss"
