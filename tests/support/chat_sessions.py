"""Chats with the toy model on a terminal and in a pipe, with sessions in a folder of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qwenctl.protocol.load import ModelInfo
from tests.support.terminal import Terminal

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
LOADED = ModelInfo("toy", "qwen35moe", "qwen35moe Q8_0", 1, 1, 1, 1, fingerprint="f", template_sha256="t")
GREEDY = ("--temp", "0", "--presence-penalty", "0")
QWENCTL = (sys.executable, "-m", "qwenctl")
LONG_QUESTION = f"\x1b[200~{'word ' * 15_000}\x1b[201~\r"


def stop_reading_and_ask_another(terminal: Terminal) -> None:
    """Press Ctrl-C during the prefill of a long question, ask another one, and press Ctrl-D."""
    terminal.wait_for("reading the prompt: ")
    terminal.send("\x03")
    terminal.wait_for("[stopped]")
    terminal.send("/undo\r")
    terminal.wait_for("> /undo")  # two lines at once would be a paste
    terminal.send(QUESTION + "\r")
    terminal.wait_for(ANSWER)
    terminal.send("\x04")
    assert terminal.exit_code() == 0


def chat(home: Path, *options: str) -> Terminal:
    """`qwenctl chat` on a terminal, with its sessions in `home`."""
    return Terminal([*QWENCTL, "chat", *GREEDY, *options], home, XDG_DATA_HOME=str(home))


def run(home: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command in a pipe, with its sessions in `home`."""
    environment = {**os.environ, "XDG_DATA_HOME": str(home), "XDG_STATE_HOME": str(home)}
    return subprocess.run(
        [*QWENCTL, *arguments], input=stdin, capture_output=True, timeout=120, check=False, env=environment
    )
