"""Keys that come while nobody reads, on a terminal: each keeps its meaning, and none is lost."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from qwenctl.chat.saved.sessions import SessionStore
from tests.support.terminal import PAUSE_S, Terminal
from tests.support.waiting import until

SECONDS_OF_ANSWER = 1.5
PASTE = "\x1b[200~{}\x1b[201~"


def chat(folder: Path, *first_answer: tuple[str, str, float]) -> Terminal:
    answers = [[("answer", f"Answer {n}.", 0.0)] for n in range(1, 9)]
    answers[0] = [*first_answer, *answers[0]]
    (folder / "answers.json").write_text(json.dumps(answers))
    command = [sys.executable, "-m", "tests.support.scripted_chat", str(folder / "answers.json"), str(folder / "saved")]
    return Terminal(command, folder)


SLOW = (("answer", "Well,\n\n", 0.0), ("answer", "now.\n\n", SECONDS_OF_ANSWER))
UNTIL_STOPPED = (("answer", "Well,\n\n", 0.0), ("until stopped", "", 0.0))


def test_terminal_is_asked_to_mark_pastes_as_long_as_the_chat_runs(tmp_path: Path) -> None:
    with chat(tmp_path, *SLOW) as terminal:
        terminal.wait_for("\n>")
        terminal.send("Go on.\r")
        terminal.wait_for("Well,")
        assert terminal.raw.rfind(b"\x1b[?2004h") > terminal.raw.rfind(b"\x1b[?2004l")
        terminal.wait_for("context ")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
        assert terminal.raw.rfind(b"\x1b[?2004h") < terminal.raw.rfind(b"\x1b[?2004l")


@pytest.mark.parametrize("form", [PASTE, "{}"])  # a terminal may not mark what it pastes
@pytest.mark.parametrize("pieces", [1, 3])
def test_paste_during_an_answer_waits_as_one_input(tmp_path: Path, pieces: int, form: str) -> None:
    paste = form.format("line one\rline two\r/quit\rline ä four\r")
    with chat(tmp_path, *SLOW) as terminal:
        terminal.wait_for("\n>")
        terminal.send("Go on.\r")
        terminal.wait_for("Well,")
        step = -(-len(paste) // pieces)
        for start in range(0, len(paste), step):
            terminal.send(paste[start : start + step])
        terminal.wait_for("line ä four")
        assert "Answer 2." not in terminal.text
        time.sleep(2 * PAUSE_S)
        terminal.send("\r")
        terminal.wait_for("Answer 2.")
        terminal.wait_for("context ", count=2)
        terminal.send("\x04")
        assert terminal.exit_code() == 0
        assert "Answer 3." not in terminal.text


@pytest.mark.parametrize("form", [PASTE, "{}"])
def test_ctrl_c_behind_a_paste_of_10_000_lines_stops_the_answer(tmp_path: Path, form: str) -> None:
    with chat(tmp_path, *UNTIL_STOPPED) as terminal:
        terminal.wait_for("\n>")
        terminal.send("Go on.\r")
        terminal.wait_for("Well,")
        terminal.send(form.format("".join(f"line {n}\r" for n in range(10_000))))
        terminal.send("\x03")
        terminal.wait_for("Answer 1.")
        terminal.wait_for("line 9999")
        assert "Answer 2." not in terminal.text
        terminal.send("\x03")  # clears the input
        terminal.send("Go on.\r")
        terminal.wait_for("Answer 2.")


@pytest.mark.parametrize("lines", [3, 10_000])
def test_paste_at_the_prompt_is_one_input_that_one_ctrl_c_clears(tmp_path: Path, lines: int) -> None:
    with chat(tmp_path) as terminal:
        terminal.wait_for("\n>")
        terminal.send("".join(f"line {n}\r" for n in range(lines)))  # a terminal that does not mark pastes
        terminal.wait_for(f"line {lines - 1}")
        terminal.send("\x03")
        terminal.send("Go on.\r")
        terminal.wait_for("Answer 1.")
        terminal.wait_for("context ")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
        assert "Answer 2." not in terminal.text


def test_ctrl_c_drops_no_key_that_came_before_it(tmp_path: Path) -> None:
    with chat(tmp_path, *UNTIL_STOPPED) as terminal:
        terminal.wait_for("\n>")
        terminal.send("Go on.\r")
        terminal.wait_for("Well,")
        terminal.send("typed ahead\r")
        time.sleep(PAUSE_S)
        terminal.send("not sent")
        terminal.send("\x03")
        terminal.wait_for("Answer 2.")
        terminal.wait_for("> not sent")
        assert "> typed ahead" in terminal.text
        assert "Answer 3." not in terminal.text


@pytest.mark.parametrize("keys", ["Go on.\r", "Go\x17Go on.\r"])
def test_enter_before_the_chat_is_ready_sends(tmp_path: Path, keys: str) -> None:
    with chat(tmp_path) as terminal:  # its terminal is in the mode in which a shell leaves it
        terminal.send(keys)
        terminal.wait_for("Answer 1.")
        assert "> Go on." in terminal.text


def test_closed_terminal_keeps_question_and_answer(tmp_path: Path) -> None:
    with chat(tmp_path, *UNTIL_STOPPED) as terminal:
        terminal.wait_for("\n>")
        terminal.send("Go on.\r")
        terminal.wait_for("Well,")
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), terminal.child.child_fd)  # closes the terminal, as a dropped SSH connection does
        until(lambda: not terminal.child.isalive())
        assert terminal.child.exitstatus == 129
    store = SessionStore(tmp_path / "saved")
    messages = store.load(store.names()[0]).conversation.messages
    assert [(message.role, message.content) for message in messages] == [("user", "Go on."), ("assistant", "Well,\n\n")]
