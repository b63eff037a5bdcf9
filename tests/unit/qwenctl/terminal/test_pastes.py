"""Pastes that the terminal does not mark: several lines at once are one, and nothing else is changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.terminal.pastes import PASTE_BEGIN, PASTE_END, PasteMarker, ends_in_paste

CHARACTERS = st.characters(codec="utf-8", exclude_categories=["C"])
LINE = st.text(CHARACTERS, min_size=1, max_size=9)


def marked(text: str) -> str:
    return f"{PASTE_BEGIN}{text}{PASTE_END}"


@given(st.text())
def test_no_key_is_lost_or_changed(burst: str) -> None:
    unmarked = burst.replace(PASTE_BEGIN, "").replace(PASTE_END, "")
    assert PasteMarker().mark(unmarked, 0).replace(PASTE_BEGIN, "").replace(PASTE_END, "") == unmarked


@given(st.lists(LINE, min_size=2), st.sampled_from(["", "\r", "\r\r"]))
def test_several_lines_are_one_paste(lines: list[str], end: str) -> None:
    text = "\r".join(lines) + end
    assert PasteMarker().mark(text, 0) == marked(text)


@given(LINE, st.sampled_from(["", "\r", "\r\r", "\r\x04"]))
def test_one_line_is_typed(line: str, end: str) -> None:
    assert PasteMarker().mark(line + end, 0) == line + end


@pytest.mark.parametrize("keys", ["\x1b[A\rmore\rmore", "\r", "\r\r\r", "a\nb", "not this\x03this\r", "\rnext"])
def test_other_keys_stay(keys: str) -> None:
    assert PasteMarker().mark(keys, 0) == keys


def test_ctrl_c_behind_a_paste_is_outside_of_it() -> None:
    assert PasteMarker().mark("one\rtwo\r\x03three\r", 0) == marked("one\rtwo\r") + "\x03three\r"


def test_what_follows_a_paste_at_once_is_its_rest_and_later_enter_sends() -> None:
    marker = PasteMarker()
    assert marker.mark("one\rtwo", 0) == marked("one\rtwo")
    assert marker.mark(" words\r", 0.1) == marked(" words\r")
    assert marker.mark("typed\r", 1) == "typed\r"


@pytest.mark.parametrize("bursts", [["one\rtwo\r\x03", "typed\r"], ["one\rtwo\r", "\x03", "typed\r"]])
def test_control_key_ends_a_paste(bursts: list[str]) -> None:
    marker = PasteMarker()
    assert [marker.mark(burst, 0) for burst in bursts][-1] == "typed\r"


@given(st.lists(LINE, min_size=2), st.integers(1, 5))
def test_terminal_that_marks_a_paste_is_trusted_from_then_on(lines: list[str], cut: int) -> None:
    marker, text = PasteMarker(), marked("\r".join(lines))
    assert marker.mark(text[:cut], 0) + marker.mark(text[cut:], 0) == text
    assert marker.mark("one\rtwo\r", 0) == "one\rtwo\r"


def test_paste_without_its_end_is_seen() -> None:
    assert ends_in_paste(f"{PASTE_BEGIN}text")
    assert not ends_in_paste(marked("text"))
