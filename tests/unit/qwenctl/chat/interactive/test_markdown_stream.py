"""Streamed Markdown is split into final blocks, no matter in which pieces it arrives."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from qwenctl.chat.interactive.markdown_stream import Block, MarkdownStream

ANSWER = """# Title
A paragraph
of two lines.

- one
- two

  still two
1. first
2. second

> quoted

| a | b |
|---|---|
| 1 | 2 |

Here is code:
```python
def f():

    return 1
```
After it.
***
~~~
tilde
~~~
last line"""
LINES = st.sampled_from(
    (
        "", "text", "# head", "- item", "  more", "1. one", "> quote", "```", "```py", "~~~", "    code", "|a|b|",
        "|-|-|", "---", "===", "<div>", "<!-- c", "-->", "[a]: /b", "\ttab", "````", "x\ry",
    )
)  # fmt: skip


def blocks_of(text: str, size: int = 10**9) -> list[Block]:
    stream = MarkdownStream()
    found = [block for at in range(0, len(text), size) for block in stream.feed(text[at : at + size])]
    return found + stream.finish()


@given(st.lists(LINES, max_size=30).map("\n".join))
def test_blocks_joined_equal_input(text: str) -> None:
    assert "".join(block.text for block in blocks_of(text)) == text


@given(st.text(alphabet="`~#-|> \n\r\0ab1.[]:<\u2028", max_size=80), st.integers(1, 9))
def test_blocks_of_random_text_do_not_depend_on_piece_size(text: str, size: int) -> None:
    blocks = blocks_of(text, size)
    assert "".join(block.text for block in blocks) == text
    assert blocks == blocks_of(text)


@given(st.lists(LINES.filter(lambda line: line != "[a]: /b"), max_size=30).map("\n".join))
def test_blocks_start_where_commonmark_parser_starts_them(text: str) -> None:
    source = text.replace("\r", " ")
    tokens = MarkdownIt("commonmark").enable("table").parse(source)
    expected = {token.map[0] for token in tokens if token.level == 0 and token.nesting >= 0 and token.map}
    starts, line = set(), 0
    for block in blocks_of(text):
        if (block.kind == "markdown" and block.text.strip()) or (block.kind == "fence" and line in expected):
            blank = len(block.text) - len(block.text.lstrip("\n \t\r"))
            starts.add(line + block.text[:blank].count("\n"))
        line += block.text.count("\n")
    assert starts == expected


def test_answer_is_split_into_expected_blocks() -> None:
    kinds = [(block.kind, block.text.strip().split("\n")[0]) for block in blocks_of(ANSWER) if block.text.strip()]
    assert kinds == [
        ("markdown", "# Title"),
        ("markdown", "A paragraph"),
        ("markdown", "- one"),
        ("markdown", "1. first"),
        ("markdown", "> quoted"),
        ("markdown", "| a | b |"),
        ("markdown", "Here is code:"),
        ("fence", "```python"),
        ("code", "def f():"),
        ("code", "return 1"),
        ("fence", "```"),
        ("markdown", "After it."),
        ("markdown", "***"),
        ("fence", "~~~"),
        ("code", "tilde"),
        ("fence", "~~~"),
        ("markdown", "last line"),
    ]


def test_paragraph_is_finished_by_blank_line() -> None:
    stream = MarkdownStream()
    assert stream.feed("Hello\nworld.\n") == []
    assert stream.feed("\n") == [Block("Hello\nworld.\n\n")]
    assert stream.open_text == ""


def test_code_line_is_finished_by_newline_and_has_language() -> None:
    stream = MarkdownStream()
    assert stream.feed("```python\n") == [Block("```python\n", "fence", "python")]
    assert stream.feed("x = 1") == []
    assert stream.feed("\n") == [Block("x = 1\n", "code", "python")]
    assert stream.feed("```\n") == [Block("```\n", "fence")]


def test_unfinished_text_stays_open() -> None:
    stream = MarkdownStream()
    stream.feed("- one\n- tw")
    assert stream.open_text == "- one\n- tw"


def calls(line: str, count: int) -> int:
    """The number of function calls, in Python and C, for `count` lines: the same on every machine."""
    stream, found = MarkdownStream(), 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        for _ in range(count):
            stream.feed(line)
        stream.finish()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("line", ["- item\n", "word\n", "| a | b |\n", "> quote\n\n", "- a\n\n", "text\n\n", "word "])
def test_markdown_stream_work_grows_linearly_with_lines(line: str) -> None:
    # A stream that read everything again for each line would need 16 times as many calls.
    assert calls(line, 1200) < 4.6 * calls(line, 300)
    assert calls(line, 300) < 300 * 3000
