"""Progress of `qwenctl quantize`: a bar on a terminal, otherwise lines."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.command_line import run
from tests.support.paths import DATA
from tests.support.terminal import Terminal

pytestmark = pytest.mark.slow
COMMAND = ["quantize", str(DATA / "toy"), "--type", "IQ3_S", "-t", "1", "--no-vision"]  # takes some seconds


def test_progress_bar_on_a_terminal_advances_and_disappears(tmp_path: Path) -> None:
    output = tmp_path / "toy.gguf"
    with Terminal([sys.executable, "-m", "qwenctl", *COMMAND, "-o", str(output)], tmp_path, width=100) as terminal:
        terminal.wait_for("routed experts")
        terminal.wait_for("B/s")
        assert terminal.exit_code() == 0
    percents = [int(percent) for percent in re.findall(rb"(\d+)%", terminal.raw)]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert len(set(percents)) > 5
    lines = [line for line in "".join(terminal.text.split("\n\n")).splitlines() if line.strip()]
    assert re.fullmatch(r"quantizing toy to IQ3_S: 5\.\d+ MB in 1 file, 1 thread", lines[0])
    assert "%" not in terminal.text
    assert f"next: qwenctl chat -m {output}"[:90] in terminal.text
    # On a terminal only the summary has the path; it is not printed again.
    assert sum(line.startswith(str(output)[:60]) for line in lines) == 1


def test_progress_outside_a_terminal_is_printed_as_lines(tmp_path: Path) -> None:
    done = run(*COMMAND, "-o", str(tmp_path / "toy.gguf"))
    first, *lines = done.stderr.decode().splitlines()[:-3]
    assert first.startswith("quantizing toy to IQ3_S: ")
    assert lines
    pattern = r" *(\d+)%  \S+ [kM]B of 5\.\d+ MB, \S+ [kM]B/s, 0:\d\d left, [a-z ]+|.*MTP"
    percents = [int(re.fullmatch(pattern, line)[1] or 100) for line in lines]  # type: ignore[index]
    assert percents == sorted(percents)
    assert not re.search("[\x1b\r]", done.stderr.decode())


@pytest.mark.parametrize("settings", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_progress_on_a_simple_terminal_has_no_colors(settings: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qwenctl", *COMMAND, "-o", str(tmp_path / "toy.gguf")]
    with Terminal(command, tmp_path, **settings) as terminal:
        terminal.wait_for("B/s")
        assert terminal.exit_code() == 0
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", terminal.raw)
