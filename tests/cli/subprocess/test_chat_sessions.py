"""Sessions are saved and resumed, on a terminal, in a pipe and after a crash; or not saved with --no-save."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.chat_sessions import (
    ANSWER,
    GREEDY,
    LONG_QUESTION,
    QUESTION,
    chat,
    run,
    stop_reading_and_ask_another,
)
from tests.support.terminal import PAUSE_S, Terminal

# ------------------------------------------------------------------ the chat


def names(home: Path) -> list[str]:
    return [row["name"] for row in json.loads(run(home, "sessions", "--json").stdout)]


def save_session(model: Path, home: Path, *options: str) -> str:
    """Tell the toy model a name in a chat; return the name of the saved session, or "" if none was saved."""
    with chat(home, "-m", str(model), *options) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("My name is Linus.\r")
        terminal.wait_for("context ")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
        if not options:
            assert "saved: qwenctl chat --resume " in terminal.text
    return next(iter(names(home)), "")


def test_resumed_chat_uses_the_cached_state(toy_gguf: Path, tmp_path: Path) -> None:
    name = save_session(toy_gguf, tmp_path)
    assert name.endswith("my-name-is-linus")
    with chat(tmp_path, "--resume", name) as terminal:
        terminal.wait_for("nothing to evaluate again")
        assert "> My name is Linus." in terminal.text
        terminal.send("What is my name?\r")
        terminal.wait_for("Your name is Linus.")
        terminal.send("/stats\r")
        terminal.wait_for("of them cached")
        last_prompt = next(line for line in terminal.text.splitlines() if "last prompt" in line)
        total, cached = (int(word.replace(",", "")) for word in last_prompt.split() if word[0].isdigit())
        assert total - cached < 30
        terminal.send("\x04")
        assert terminal.exit_code() == 0


def test_resume_without_a_name_takes_the_latest_session_and_its_model(toy_gguf: Path, tmp_path: Path) -> None:
    save_session(toy_gguf, tmp_path)
    done = run(tmp_path, "chat", "--resume", stdin=b"What is my name?")
    assert (done.stdout, done.stderr) == (b"Your name is Linus.\n", b"")
    done = run(tmp_path, "chat", "--json", "--resume", stdin=b"What is the capital of France?")
    assert json.loads(done.stdout)["answer"] == ANSWER
    assert len(json.loads(run(tmp_path, "sessions", "show", "--json", names(tmp_path)[0]).stdout)["messages"]) == 6


def test_resume_with_another_model_evaluates_the_text_again(toy: Path, toy_gguf: Path, tmp_path: Path) -> None:
    from quantize.convert import convert
    from quantize.plan import QuantizeOptions, make_plan

    name = save_session(toy_gguf, tmp_path)
    convert(make_plan(toy, tmp_path / "other.gguf", QuantizeOptions("F16", vision=False)), 1)
    with chat(tmp_path, "-m", str(tmp_path / "other.gguf"), "--resume", name) as terminal:
        terminal.wait_for("its text will be evaluated again (the model has")
        terminal.send("What is my name?\r")
        terminal.wait_for("Your name is Linus.")
        terminal.send("\x04")
        assert terminal.exit_code() == 0


def kill_during_prefill(terminal: Terminal) -> None:
    """Kill a chat with SIGKILL during the prefill of a long question, and wait until its engine has ended."""
    terminal.send(LONG_QUESTION)
    terminal.wait_for("reading the prompt: ")
    children = psutil.Process(terminal.child.pid).children()
    terminal.child.kill(signal.SIGKILL)
    psutil.wait_procs(children, timeout=30)


def test_killed_chat_resumes_at_the_last_complete_turn(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(tmp_path, "-m", str(toy_gguf), "-c", "65536") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("My name is Linus.\r")
        terminal.wait_for("context ")
        kill_during_prefill(terminal)
    done = run(tmp_path, "chat", *GREEDY, "--resume", stdin=b"What is my name?")
    assert done.stdout == b"Your name is Linus.\n"


def test_question_interrupted_by_a_kill_can_be_regenerated(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(tmp_path, "-m", str(toy_gguf), "-c", "65536") as terminal:
        terminal.wait_for("Ctrl-D quits")
        kill_during_prefill(terminal)
    [name] = names(tmp_path)
    with chat(tmp_path, "--resume", name, "-c", "65536") as terminal:
        terminal.wait_for("the last question has no answer yet: /regen answers it, /undo removes it")
        terminal.send("/regen\r")
        stop_reading_and_ask_another(terminal)


def test_question_longer_than_the_context_leaves_no_session(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(tmp_path, "-m", str(toy_gguf), "-c", "2048") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(f"\x1b[200~{'word ' * 4_000}\x1b[201~\r")
        terminal.wait_for("error: prompt has ")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    assert names(tmp_path) == []
    assert not list((tmp_path / "qwenctl" / "sessions").glob("*"))


@pytest.mark.parametrize("option_or_command", ["--no-save", "/private"])
def test_chat_with_no_save_or_private_writes_no_session(toy_gguf: Path, tmp_path: Path, option_or_command: str) -> None:
    with chat(tmp_path, "-m", str(toy_gguf), *([option_or_command] if option_or_command[0] == "-" else [])) as terminal:
        terminal.wait_for("Ctrl-D quits")
        if option_or_command[0] == "/":
            terminal.send(f"{option_or_command}\r")
            terminal.wait_for("this conversation is not saved")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("context ")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    assert names(tmp_path) == []
    assert not list((tmp_path / "qwenctl").glob("sessions/*"))


def test_slash_commands_name_list_load_and_export_sessions(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(tmp_path, "-m", str(toy_gguf)) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("My name is Linus.\r")
        terminal.wait_for("context ")
        terminal.send("/save about me\r")
        terminal.wait_for("saved as about me")
        terminal.send("/clear\r")
        time.sleep(PAUSE_S)
        terminal.send("/sessions\r")
        terminal.wait_for("  about me")
        terminal.send(QUESTION + "\r")
        terminal.wait_for(ANSWER)
        terminal.send("/load about me\r")
        terminal.wait_for("about me: ")
        terminal.send("What is my name?\r")
        terminal.wait_for("Your name is Linus.")
        terminal.send(f"/export {tmp_path}/chat.md\r")
        terminal.wait_for("written to")
        terminal.send("/load nothing\r")
        terminal.wait_for("no saved conversation is named 'nothing'")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    assert "## You\n\nWhat is my name?" in (tmp_path / "chat.md").read_text()
    assert len(names(tmp_path)) == 3


def test_resume_of_an_open_session_is_refused(toy_gguf: Path, tmp_path: Path) -> None:
    name = save_session(toy_gguf, tmp_path)
    with chat(tmp_path, "--resume", name) as terminal:
        terminal.wait_for("nothing to evaluate again")
        done = run(tmp_path, "chat", "--resume", name, stdin=b"Hi")
        assert done.returncode == 75
        assert done.stderr.startswith(
            f"qwenctl: error: the saved conversation '{name}' is open in another qwenctl\n".encode()
        )


# ------------------------------------------------------------------ qwenctl sessions


def test_sessions_are_listed_shown_exported_and_deleted(toy_gguf: Path, tmp_path: Path) -> None:
    name = save_session(toy_gguf, tmp_path)
    listed = run(tmp_path, "sessions").stdout.decode()
    assert listed.startswith(f"{name}  ")
    assert "2 messages" in listed
    assert "## You\n\nMy name is Linus." in run(tmp_path, "sessions", "show", name).stdout.decode()
    exported = run(tmp_path, "sessions", "export", name, "--format", "json").stdout
    assert json.loads(exported)["messages"][0]["content"] == "My name is Linus."
    assert run(tmp_path, "sessions", "export", name, "-o", str(tmp_path / "x.md")).returncode == 0
    assert run(tmp_path, "sessions", "export", name, "-o", str(tmp_path / "x.md")).returncode == 73
    assert run(tmp_path, "sessions", "delete", name).returncode == 0
    assert names(tmp_path) == []
    assert run(tmp_path, "sessions", "delete", name).returncode == 66
    assert run(tmp_path, "chat", "--resume").returncode == 66
