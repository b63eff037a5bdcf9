"""Text from a model can only print on a terminal, not control it."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.terminal.sanitize import TerminalCleaner, clean, clean_line, truncate_middle

ATTACKS = {
    "cursor home and erase": "\x1b[H\x1b[2J",
    "colors": "\x1b[1;31m",
    "private mode": "\x1b[?1049h",
    "window title (OSC 0, BEL)": "\x1b]0;owned\x07",
    "link (OSC 8, ST)": "\x1b]8;;http://evil.example\x1b\\",
    "clipboard (OSC 52)": "\x1b]52;c;ZWNobyBvd25lZA==\x07",
    "device control string": "\x1bP1$r0m\x1b\\",
    "application command": "\x1b_Gf=100;AAAA\x1b\\",
    "privacy message": "\x1b^secret\x1b\\",
    "start of string": "\x1bXsecret\x1b\\",
    "C1 CSI": "\x9b31m",
    "C1 OSC, C1 terminator": "\x9d0;owned\x9c",
    "C1 DCS": "\x90q#0\x9c",
    "reset": "\x1bc",
    "character set": "\x1b(0",
    "alignment test": "\x1b#8",
    "bell, backspace, carriage return": "\x07\x08\r",
    "shift out": "\x0e",
    "DEL and NUL": "\x7f\x00",
    "next line and index": "\x85\x84",
    "bidi override": "\u202e\u202a\u202c",
    "bidi isolate": "\u2066\u2067\u2068\u2069",
}
PIECES = st.sampled_from(
    [*ATTACKS.values(), "\x1b", "\x1b[", "\x1b]", "\x9b", "\x9d", "\\", ";", "1", "m", "\n", "é", "日"]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_escape_sequence_is_removed_and_surrounding_text_stays(attack: str) -> None:
    assert clean(f"before{attack}after") == "beforeafter"


def test_ordinary_text_of_any_language_is_unchanged() -> None:
    text = "Größe:\t日本語, عربى, 🙂‍↔️\n  indented [1] $(x) \\ ]0; P_\n"
    assert clean(text) == text


def test_unterminated_osc_sequence_does_not_swallow_following_lines() -> None:
    assert clean("a\x1b]0;no end\nsecond line\n") == "a\nsecond line\n"


def test_name_with_controls_becomes_one_clean_line() -> None:
    assert clean_line("evil\x1b[2J\nname\t.gguf ") == "evil name .gguf"


@given(TEXTS, st.lists(st.integers(0, 80), max_size=8))
def test_text_cleaned_in_pieces_equals_text_cleaned_whole(text: str, cuts: list[int]) -> None:
    cleaner = TerminalCleaner()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert "".join(cleaner.feed(text[a:b]) for a, b in pairwise(edges)) == clean(text)


@given(TEXTS)
def test_cleaned_text_has_no_controls_and_stays_when_cleaned_again(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert not any(c < " " and c not in "\n\t" for c in cleaned)
    assert not any("\x7f" <= c <= "\x9f" or "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069" for c in cleaned)


@given(TEXTS)
def test_terminal_fed_cleaned_text_only_draws(text: str) -> None:
    events = io.StringIO()
    pyte.Stream(pyte.DebugScreen(to=events)).feed(clean(text))
    assert {json.loads(line)[0] for line in events.getvalue().splitlines()} <= {"draw", "linefeed", "tab"}


@given(st.text(), st.integers(0, 40))
def test_long_text_is_truncated_in_its_middle(text: str, most: int) -> None:
    short = truncate_middle(text, most)
    if len(text) <= most:
        assert short == text
    else:
        begin, left_out, end = short[: most // 2], len(text) - 2 * (most // 2), short[len(short) - most // 2 :]
        assert text.startswith(begin)
        assert text.endswith(end)
        assert f"\n… {left_out:,} characters …\n" in short
