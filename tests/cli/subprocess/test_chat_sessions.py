"""Conversations are kept and gone on with: on a terminal, in a pipe, after a crash; and not at all where asked."""

from __future__ import annotations

import json
import signal
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
from tests.support.terminal import Terminal

# ------------------------------------------------------------------ the chat


def names(home: Path) -> list[str]:
    return [row["name"] for row in json.loads(run(home, "sessions", "--json").stdout)]


def introduced(model: Path, home: Path, *options: str) -> str:
    """A session in which the toy has been told a name; its own name."""
    with chat(home, "-m", str(model), *options) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("My name is Linus.\r")
        terminal.wait_for("context ")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
        if not options:
            assert "saved: qwenctl chat --resume " in terminal.text
    return next(iter(names(home)), "")


def test_a_chat_is_gone_on_with_and_nothing_is_read_again(toy_gguf: Path, tmp_path: Path) -> None:
    name = introduced(toy_gguf, tmp_path)
    assert name.endswith("my-name-is-linus")
    with chat(tmp_path, "--resume", name) as terminal:
        terminal.wait_for("nothing to evaluate again")
        assert "> My name is Linus." in terminal.text
        terminal.send("What is my name?\r")
        terminal.wait_for("Your name is Linus.")
        terminal.send("/stats\r")
        terminal.wait_for("of them cached")
        last = next(line for line in terminal.text.splitlines() if "last prompt" in line)
        total, cached = (int(word.replace(",", "")) for word in last.split() if word[0].isdigit())
        assert total - cached < 30
        terminal.send("\x04")
        assert terminal.exit_code() == 0


def test_without_a_name_it_is_the_last_one_and_its_model(toy_gguf: Path, tmp_path: Path) -> None:
    introduced(toy_gguf, tmp_path)
    done = run(tmp_path, "chat", "--resume", stdin=b"What is my name?")
    assert (done.stdout, done.stderr) == (b"Your name is Linus.\n", b"")
    done = run(tmp_path, "chat", "--json", "--resume", stdin=b"What is the capital of France?")
    assert json.loads(done.stdout)["answer"] == ANSWER
    assert len(json.loads(run(tmp_path, "sessions", "show", "--json", names(tmp_path)[0]).stdout)["messages"]) == 6


def test_with_another_model_it_says_so_and_reads_again(toy: Path, toy_gguf: Path, tmp_path: Path) -> None:
    from quantize.convert import convert
    from quantize.plan import QuantizeOptions, make_plan

    name = introduced(toy_gguf, tmp_path)
    convert(make_plan(toy, tmp_path / "other.gguf", QuantizeOptions("F16", vision=False)), 1)
    with chat(tmp_path, "-m", str(tmp_path / "other.gguf"), "--resume", name) as terminal:
        terminal.wait_for("its text will be evaluated again (the model has")
        terminal.send("What is my name?\r")
        terminal.wait_for("Your name is Linus.")
        terminal.send("\x04")
        assert terminal.exit_code() == 0


def kill_while_it_reads(terminal: Terminal) -> None:
    """Kill -9 of a chat and of its engine, while it reads a long question."""
    terminal.send(LONG_QUESTION)
    terminal.wait_for("reading the prompt: ")
    children = psutil.Process(terminal.child.pid).children()
    terminal.child.kill(signal.SIGKILL)
    psutil.wait_procs(children, timeout=30)


def test_after_a_crash_the_last_whole_turn_is_there(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(tmp_path, "-m", str(toy_gguf), "-c", "65536") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("My name is Linus.\r")
        terminal.wait_for("context ")
        kill_while_it_reads(terminal)
    done = run(tmp_path, "chat", *GREEDY, "--resume", stdin=b"What is my name?")
    assert done.stdout == b"Your name is Linus.\n"


def test_a_long_question_that_was_being_read_when_all_stopped_can_be_asked_again(
    toy_gguf: Path, tmp_path: Path
) -> None:
    with chat(tmp_path, "-m", str(toy_gguf), "-c", "65536") as terminal:
        terminal.wait_for("Ctrl-D quits")
        kill_while_it_reads(terminal)
    [name] = names(tmp_path)
    with chat(tmp_path, "--resume", name, "-c", "65536") as terminal:
        terminal.wait_for("the last question has no answer yet: /regen answers it, /undo removes it")
        terminal.send("/regen\r")
        stop_reading_and_ask_another(terminal)


def test_a_question_that_does_not_fit_leaves_no_session(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(tmp_path, "-m", str(toy_gguf), "-c", "2048") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(f"\x1b[200~{'word ' * 4_000}\x1b[201~\r")
        terminal.wait_for("error: prompt has ")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    assert names(tmp_path) == []
    assert not list((tmp_path / "qwenctl" / "sessions").glob("*"))


@pytest.mark.parametrize("way", ["--no-save", "/private"])
def test_nothing_is_kept_where_that_is_asked(toy_gguf: Path, tmp_path: Path, way: str) -> None:
    with chat(tmp_path, "-m", str(toy_gguf), *([way] if way[0] == "-" else [])) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("context ")
        if way[0] == "/":
            terminal.send(f"{way}\r")
            terminal.wait_for("this conversation is not saved")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("context ", count=2)
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    assert names(tmp_path) == []
    assert not list((tmp_path / "qwenctl" / "sessions").iterdir())


def test_in_the_chat_a_session_is_renamed_listed_left_and_loaded(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(tmp_path, "-m", str(toy_gguf)) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("My name is Linus.\r")
        terminal.wait_for("context ")
        terminal.send("/save about me\r")
        terminal.wait_for("saved as about me")
        terminal.send("/clear\r/sessions\r")
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


def test_a_session_that_is_open_elsewhere_is_one_line(toy_gguf: Path, tmp_path: Path) -> None:
    name = introduced(toy_gguf, tmp_path)
    with chat(tmp_path, "--resume", name) as terminal:
        terminal.wait_for("nothing to evaluate again")
        done = run(tmp_path, "chat", "--resume", name, stdin=b"Hi")
        assert done.returncode == 75
        assert done.stderr.startswith(
            f"qwenctl: error: the saved conversation '{name}' is open in another qwenctl\n".encode()
        )


# ------------------------------------------------------------------ qwenctl sessions


def test_sessions_are_listed_shown_exported_and_deleted(toy_gguf: Path, tmp_path: Path) -> None:
    name = introduced(toy_gguf, tmp_path)
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
