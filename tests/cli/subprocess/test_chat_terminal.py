"""The real command on a real terminal, and in a real pipe, with the toy model."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support.chat_sessions import ANSWER, GREEDY, LONG_QUESTION, QUESTION, QWENCTL, stop_reading_and_ask_another
from tests.support.terminal import Terminal
from tests.support.waiting import until


def chat(model: Path, home: Path, *options: str, width: int = 80, **environment: str) -> Terminal:
    return Terminal([*QWENCTL, "chat", "-m", str(model), *GREEDY, *options], home, width=width, **environment)


def pipe(model: Path, *options: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [*QWENCTL, "chat", "-m", str(model), *GREEDY, *options]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


# ------------------------------------------------------------------ on a terminal


@pytest.mark.parametrize("width", [80, 40])
def test_ask_and_leave(toy_gguf: Path, tmp_path: Path, width: int) -> None:
    with chat(toy_gguf, tmp_path, "--no-think", width=width) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("context ")
        assert terminal.text.count(ANSWER) == 1
        assert "tokens/s" in terminal.text
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    history = tmp_path / "qwenctl" / "history"
    assert QUESTION in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700


def test_thinking_is_folded_and_can_be_shown(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-history") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("/thinking shows it")
        terminal.wait_for("context ")
        terminal.send("/quit\r")
        assert terminal.exit_code() == 0
    assert not (tmp_path / "qwenctl" / "history").exists()


def test_an_engine_that_dies_is_said_and_the_chat_goes_on(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("What is the capital of Italy?\r")
        terminal.wait_for("context ")
        for child in psutil.Process(terminal.child.pid).children(recursive=True):
            child.kill()
        terminal.send(QUESTION + "\r")
        terminal.wait_for("the conversation is saved")
        assert "error: " in terminal.text
        terminal.send("/regen\r")
        terminal.wait_for(ANSWER)
        terminal.send("\x04")
        assert terminal.exit_code() == 0


def test_ctrl_c_stops_a_long_prompt_and_the_chat_goes_on(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think", "-c", "65536") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(LONG_QUESTION)
        stop_reading_and_ask_another(terminal)


def test_ctrl_c_twice_leaves_even_an_engine_that_hangs(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think") as terminal:
        terminal.wait_for("Ctrl-D quits")
        [engine] = psutil.Process(terminal.child.pid).children(recursive=True)
        engine.suspend()
        terminal.send(QUESTION + "\r")
        terminal.wait_for(QUESTION)
        time.sleep(0.5)  # now it waits for the answer
        terminal.send("\x03")
        time.sleep(0.2)
        terminal.send("\x03")
        assert terminal.exit_code() == 130
        assert not engine.is_running()


@pytest.mark.parametrize("while_it_reads", [False, True])
def test_ctrl_z_goes_back_to_the_shell_and_fg_back_to_the_chat(
    toy_gguf: Path, tmp_path: Path, while_it_reads: bool
) -> None:
    with Terminal(["bash", "--norc", "--noprofile", "-i"], tmp_path, width=200) as terminal:
        terminal.send(f"{' '.join(QWENCTL)} chat -m {toy_gguf} {' '.join(GREEDY)} --no-think -c 65536\r")
        terminal.wait_for("\n>")
        if while_it_reads:
            terminal.send(LONG_QUESTION)
            terminal.wait_for("reading the prompt: ")
        terminal.send("\x1a")
        terminal.wait_for("Stopped")
        [job] = psutil.Process(terminal.child.pid).children()
        terminal.send("fg\r")
        if while_it_reads:
            until(lambda: job.status() != psutil.STATUS_STOPPED)
            terminal.send("\x03")
            terminal.wait_for("[stopped]")
            terminal.send("/undo\r")
        else:
            terminal.wait_for("\n>")
        terminal.send(QUESTION + "\r")
        terminal.wait_for(ANSWER)
        terminal.send("\x04")  # not yet at the prompt: it is kept until then
        psutil.wait_procs([job], timeout=30)
        terminal.send("echo left with $?\r")
        terminal.wait_for("left with 0")


def test_ctrl_c_at_the_prompt_does_not_leave(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think") as terminal:
        terminal.wait_for("\n>")
        terminal.send("\x03")
        terminal.wait_for("Ctrl-D quits", count=2)
        terminal.send("not this\x03" + QUESTION + "\r")
        terminal.wait_for(ANSWER)
        terminal.send("\x04")
        assert terminal.exit_code() == 0


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colors_where_they_are_not_wanted(toy_gguf: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    with chat(toy_gguf, tmp_path, "--no-think", **environment) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("context ")
        assert ANSWER in terminal.text
        styles = {int(code) for codes in re.findall(rb"\x1b\[([\d;]+)m", terminal.raw) for code in codes.split(b";")}
        assert not styles & {*range(30, 49), *range(90, 108)}
        terminal.send("\x04")
        assert terminal.exit_code() == 0


def test_a_prompt_on_a_terminal_is_answered_without_a_chat(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think", QUESTION) as terminal:
        assert terminal.exit_code() == 0
        assert terminal.text.strip() == ANSWER


# ------------------------------------------------------------------ in a pipe


@pytest.mark.parametrize("think", ["--think", "--no-think"])
def test_only_the_answer_goes_to_standard_output(toy_gguf: Path, think: str) -> None:
    done = pipe(toy_gguf, think, stdin=QUESTION.encode() + b"\n")
    assert (done.stdout.decode(), done.stderr, done.returncode) == (f"{ANSWER}\n", b"", 0)


def test_words_follow_what_is_piped(toy_gguf: Path) -> None:
    joined = pipe(toy_gguf, "--no-think", "of", "France?", stdin=b"What is the capital\n")
    assert joined.stdout == pipe(toy_gguf, "--no-think", stdin=b"What is the capital\n\nof France?").stdout


def test_json_is_one_object(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "--json", QUESTION)
    found = json.loads(done.stdout)
    assert done.stdout.count(b"\n") == 1
    assert found["answer"].strip() == ANSWER
    assert found["thinking"].strip()
    assert found["finish_reason"] == "stop"
    assert found["usage"]["answer_tokens"] > 0
    assert found["model"]["architecture"] == "qwen35moe"


def test_verbose_says_the_rest_on_standard_error(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "--verbose", QUESTION)
    assert done.stdout.decode() == f"{ANSWER}\n"
    assert b"tokens/s" in done.stderr


def test_an_answer_cut_short_is_said(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "--no-think", "-n", "3", QUESTION)
    assert done.stderr == b"qwenctl: warning: the answer is incomplete: cut at 3 tokens (-n)\n"
    assert done.returncode == 0


def test_a_prompt_longer_than_the_context_is_a_failure(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "-c", "256", stdin=b"word " * 2000)
    assert done.returncode == 65
    assert done.stdout == b""
    assert done.stderr.startswith(b"qwenctl: error: ")
    assert b"256" in done.stderr


def test_what_is_not_utf8_is_said_and_answered(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "--no-think", stdin=os.urandom(200) + b"\xff\xfe")
    assert done.returncode == 0
    assert done.stderr.startswith(b"qwenctl: warning: stdin byte ")


def test_a_reader_that_goes_away_ends_it_quietly(toy_gguf: Path) -> None:
    command = f"({' '.join(QWENCTL)} chat -m {toy_gguf} '{QUESTION}'; echo $? >&2) | :"
    done = subprocess.run(
        ["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )
    assert done.stderr == b"141\n"


def test_a_full_disk_is_one_line(toy_gguf: Path) -> None:
    command = f"{' '.join(QWENCTL)} chat -m {toy_gguf} '{QUESTION}' > /dev/full"
    done = subprocess.run(
        ["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )
    assert done.stderr == b"qwenctl: error: cannot write the output (no space left on device)\n"
    assert done.returncode == 74


@pytest.mark.parametrize("stdin", ["< /dev/null", "<&-"])
def test_no_prompt_never_hangs(toy_gguf: Path, stdin: str) -> None:
    command = f"{' '.join(QWENCTL)} chat -m {toy_gguf} {stdin}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"qwenctl: error: no prompt")


def reading_a_long_prompt(model: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A pipe whose engine is at work, and will be for long."""
    (folder / "long.txt").write_text("word " * 15_000)
    command = [*QWENCTL, "chat", "-m", str(model), "-c", "65536"]
    with (folder / "long.txt").open("rb") as text:
        process = subprocess.Popen(command, stdin=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: any(engine.cpu_times().user > 1 for engine in engines(process)))
    return process


def engines(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_its_code_and_leaves_nothing_behind(
    toy_gguf: Path, tmp_path: Path, number: int, code: int
) -> None:
    with reading_a_long_prompt(toy_gguf, tmp_path) as process:
        [engine] = engines(process)
        process.send_signal(number)
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == code
        assert not engine.is_running()


def test_an_engine_that_dies_is_one_line(toy_gguf: Path, tmp_path: Path) -> None:
    with reading_a_long_prompt(toy_gguf, tmp_path) as process:
        engines(process)[0].send_signal(signal.SIGABRT)
        out, errors = process.communicate(timeout=30)
        line, hint = errors.decode().splitlines()
        assert (out, line) == (b"", "qwenctl: error: the model engine stopped while it read the prompt (SIGABRT)")
        assert hint.startswith(
            "  hint: llama.cpp's check had passed; `qwenctl doctor --measure` checks again; its log: "
        )
        assert process.returncode == 70
