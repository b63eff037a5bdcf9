"""Images in a chat on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.chat_sessions import QWENCTL
from tests.support.command_line import run
from tests.support.pictures import BLACK, GREEDY, RED
from tests.support.terminal import Terminal

PROMPT = "What is in the picture?"


def test_images_in_a_chat_are_answered_and_resumed_from_cache(seeing_gguf: Path, tmp_path: Path) -> None:
    """Images from an option, a command and a resumed session; a refused file; /regen and /undo."""
    (tmp_path / "text.png").write_bytes(b"no picture at all")
    state = tmp_path / "state"
    command = [*QWENCTL, "chat", "-m", str(seeing_gguf), *GREEDY, "--no-think"]
    with Terminal([*command, "-i", str(RED)], state, width=140, height=50) as terminal:
        terminal.wait_for("12.png: 160 x 160, 66 tokens")
        terminal.send(f"{PROMPT}\r")
        terminal.wait_for("A red triangle.")
        terminal.send(f"/image {tmp_path / 'text.png'}\r")
        terminal.wait_for("is neither an image nor a video")
        terminal.send(f"/image {BLACK}\r")
        terminal.wait_for("will be sent with the next question")
        terminal.send(f"{PROMPT}\r")
        terminal.wait_for("A black square.")
        terminal.send("/regen\r")
        terminal.wait_for("A black square.", 2)
        terminal.send("/undo\r")
        terminal.wait_for("removed: What is in the picture?")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    home = {"XDG_STATE_HOME": str(state)}
    name = json.loads(run("sessions", "--json", **home).stdout)[0]["name"]
    resumed = run("chat", *GREEDY, "--json", "--resume", name, "-i", str(BLACK), PROMPT, stdin=b"", **home)
    answer = json.loads(resumed.stdout)
    assert answer["answer"].strip() == "A black square."
    assert answer["usage"]["cached_tokens"] > 66
