"""Streaming of answers on a terminal: no line is lost or repeated, at any width, while resizing, with any content."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from wcwidth import wcswidth

from tests.support.terminal import Terminal

Part = tuple[str, str, float]
COMMAND = [sys.executable, "-m", "tests.support.scripted_chat"]


def scripted(folder: Path, *answers: list[Part]) -> list[str]:
    (folder / "answers.json").write_text(json.dumps(answers))
    return [*COMMAND, str(folder / "answers.json")]


def ask(terminal: Terminal, count: int = 1) -> None:
    terminal.wait_for("\n>", count=count)
    terminal.send("Go on.\r")
    terminal.wait_for("context ", count=count)


def lines(text: str, seconds: float = 0.0) -> list[Part]:
    """The parts of an answer that brings `text` line by line, each after `seconds`."""
    return [("answer", line, seconds) for line in text.splitlines(keepends=True)]


# ------------------------------------------------------------------ sizes


class Tmux:
    """A terminal that keeps its scrollback when it is resized."""

    def __init__(self, command: list[str], width: int, height: int) -> None:
        self._socket = f"qwenctl-test-{uuid.uuid4().hex}"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), *command)
        self._tmux("set-option", "-g", "history-limit", "20000")

    def __enter__(self) -> Tmux:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server", check=False)

    def send(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    @property
    def text(self) -> str:
        return self._tmux("capture-pane", "-p", "-J", "-S", "-")

    def wait_for(self, text: str, count: int = 1, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while self.text.count(text) < count:
            assert time.monotonic() < end, f"{text!r} did not come; the terminal shows:\n{self.text}"
            time.sleep(0.05)

    def _tmux(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(["tmux", "-L", self._socket, *arguments], capture_output=True, text=True, check=check)
        return done.stdout


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    assert shutil.which("tmux")
    # 400 short lines, which wrap at none of the widths; each comes after 5 ms, so that resizing happens meanwhile.
    text = "".join(f"this is line{number}\n\n" for number in range(400))
    with Tmux(scripted(tmp_path, lines(text, 0.005)), 80, 24) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.wait_for("\n>")
        terminal.send("Go on.", "Enter")
        yield terminal


@pytest.mark.parametrize(
    "sizes",
    [[(60, 24)], [(120, 40)], [(40, 10)], [(80, 12), (80, 40), (80, 24)], [(50, 20), (100, 30), (45, 12), (80, 24)]],
    ids=str,
)
def test_resizing_while_an_answer_streams_loses_no_line_and_repeats_none(
    tmux: Tmux, sizes: list[tuple[int, int]]
) -> None:
    for number, size in enumerate(sizes, 1):
        tmux.wait_for(f"line{number * 50}")
        tmux.resize(*size)
    tmux.wait_for("context ")
    numbers = re.findall(r"line(\d+)", tmux.text)
    assert [int(number) for number in numbers] == list(range(400))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12), (132, 50)])
def test_ten_thousand_lines_neither_flicker_nor_repeat(tmp_path: Path, width: int, height: int) -> None:
    text = "".join(f"word{number} and more\n" + "\n" * (number % 4 == 0) for number in range(10_000))
    with Terminal(scripted(tmp_path, lines(text)), tmp_path, width, height) as terminal:
        ask(terminal)
        words = terminal.text.split()
        counts = {word: words.count(word) for word in ("word0", "word1", "word4999", "word9998", "word9999")}
        assert set(counts.values()) == {1}
        assert len(terminal.raw) < 4 * len(text)
        terminal.send("\x04")
        assert terminal.exit_code() == 0


# ------------------------------------------------------------------ the content of an answer

WIDE = "日本語のテキスト、中文、한국어 and 🙂👍🏽👨‍👩‍👧 emoji"


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize(
    "text",
    [
        f"{WIDE}\n",
        f"- {WIDE}\n- {WIDE}\n",
        "| name | 値段 |\n|---|---|\n| りんご | 100円 |\n| 🙂 | 5 |\n",
        f"```\n{WIDE}\n```\n",
        "عربى with English, e\N{COMBINING ACUTE ACCENT} combined\n",
        "a\tb\tc\n\n1\t2\t3\n",
    ],
    ids=["text", "list", "table", "code", "combining", "tabs"],
)
def test_wide_characters_stay_within_the_terminal(tmp_path: Path, text: str, width: int) -> None:
    with Terminal(scripted(tmp_path, lines(text)), tmp_path, width) as terminal:
        ask(terminal)
        shown = [line for line in terminal.text.splitlines() if line.strip()]
        assert max(wcswidth(line) for line in shown) <= width
        letters = re.sub(r"[\s|`\-]", "", text)
        assert letters[:4] in re.sub(r"\s", "", terminal.text)


def test_table_cells_align_under_wide_characters(tmp_path: Path) -> None:
    text = "| a | b |\n|---|---|\n| 日本 | x |\n| ab | y |\n"
    with Terminal(scripted(tmp_path, lines(text)), tmp_path) as terminal:
        ask(terminal)
        rows = [line for line in terminal.text.splitlines() if line.rstrip().endswith((" x", " y"))]
        assert len({wcswidth(row.rstrip()) for row in rows}) == 1


# ------------------------------------------------------------------ during an answer


def test_prefill_progress_is_shown_and_never_decreases(tmp_path: Path) -> None:
    parts: list[Part] = [("prompt", str(done), 0.08) for done in (10, 30, 60, 100)]
    with Terminal(scripted(tmp_path, [*parts, ("answer", "Done.\n", 0.1)]), tmp_path) as terminal:
        ask(terminal)
        percents = [int(percent) for percent in re.findall(rb"reading the prompt: (\d+)%", terminal.raw)]
        assert percents == sorted(percents)
        assert percents[-1] == 100
        assert "reading the prompt" not in terminal.text


def test_first_token_is_shown_at_once(tmp_path: Path) -> None:
    parts: list[Part] = [("answer", "First", 0), ("answer", " second.\n", 3)]
    with Terminal(scripted(tmp_path, parts), tmp_path) as terminal:
        terminal.wait_for("\n>")
        terminal.send("Go on.\r")
        terminal.wait_for("First")
        assert "second" not in terminal.text
        terminal.wait_for("context ")


def test_thinking_is_shown_while_streaming_and_then_collapsed(tmp_path: Path) -> None:
    thinking: list[Part] = [("thinking", f"step {number}\n", 0.05) for number in range(30)]
    with Terminal(scripted(tmp_path, [*thinking, ("answer", "So.\n", 0)]), tmp_path) as terminal:
        terminal.wait_for("\n>")
        terminal.send("Go on.\r")
        terminal.wait_for("step 5")
        terminal.wait_for("context ")
        assert "step" not in terminal.text.replace("step-by-step", "")
        assert "/thinking shows it" in terminal.text
        terminal.send("/thinking\r")
        terminal.wait_for("step 29")


def test_text_typed_during_an_answer_is_the_next_question(tmp_path: Path) -> None:
    answers = [lines("one\n\ntwo\n\nthree\n", 0.2), lines("second answer\n")]
    with Terminal(scripted(tmp_path, *answers), tmp_path) as terminal:
        terminal.wait_for("\n>")
        terminal.send("Go on.\r")
        terminal.wait_for("one")
        terminal.send("typed ahead\r")
        terminal.wait_for("second answer")
        assert terminal.text.count("typed ahead") == 1
