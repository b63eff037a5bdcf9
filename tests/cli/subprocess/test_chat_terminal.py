"""`qwenctl chat` with the toy model: on a terminal and in a pipe."""

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
def test_question_is_answered_and_ctrl_d_quits(toy_gguf: Path, tmp_path: Path, width: int) -> None:
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


def test_thinking_is_collapsed_and_no_history_writes_no_file(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-history") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("/thinking shows it")
        terminal.wait_for("context ")
        terminal.send("/quit\r")
        assert terminal.exit_code() == 0
    assert not (tmp_path / "qwenctl" / "history").exists()


def test_chat_continues_after_an_engine_crash(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("What is the capital of Italy?\r")
        terminal.wait_for("context ")
        for child in psutil.Process(terminal.child.pid).children():
            child.kill()
        terminal.send(QUESTION + "\r")
        terminal.wait_for("the conversation is saved")
        assert "error: " in terminal.text
        terminal.send("/regen\r")
        terminal.wait_for(ANSWER)
        terminal.send("\x04")
        assert terminal.exit_code() == 0


def test_ctrl_c_stops_prefill_and_the_chat_continues(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think", "-c", "65536") as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(LONG_QUESTION)
        stop_reading_and_ask_another(terminal)


def test_second_ctrl_c_quits_a_chat_with_a_hung_engine(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think") as terminal:
        terminal.wait_for("Ctrl-D quits")
        [engine] = psutil.Process(terminal.child.pid).children()  # one of its own renders templates
        engine.suspend()
        terminal.send(QUESTION + "\r")
        terminal.wait_for(QUESTION)
        time.sleep(0.5)  # until the chat waits for the answer
        terminal.send("\x03")
        time.sleep(0.2)
        terminal.send("\x03")
        assert terminal.exit_code() == 130
        assert not engine.is_running()


@pytest.mark.parametrize("during_prefill", [False, True])
def test_ctrl_z_suspends_the_chat_and_fg_resumes_it(toy_gguf: Path, tmp_path: Path, during_prefill: bool) -> None:
    with Terminal(["bash", "--norc", "--noprofile", "-i"], tmp_path, width=200) as terminal:
        terminal.send(f"{' '.join(QWENCTL)} chat -m {toy_gguf} {' '.join(GREEDY)} --no-think -c 65536\r")
        terminal.wait_for("\n>")
        if during_prefill:
            terminal.send(LONG_QUESTION)
            terminal.wait_for("reading the prompt: ")
        terminal.send("\x1a")
        terminal.wait_for("Stopped")
        [job] = psutil.Process(terminal.child.pid).children()
        terminal.send("fg\r")
        if during_prefill:
            until(lambda: job.status() != psutil.STATUS_STOPPED)
            terminal.send("\x03")
            terminal.wait_for("[stopped]")
            terminal.send("/undo\r")
            terminal.wait_for("> /undo")
        else:
            terminal.wait_for("\n>")
        terminal.send(QUESTION + "\r")
        terminal.wait_for(ANSWER)
        terminal.send("\x04")  # the chat may not be at its prompt yet: the key waits until then
        psutil.wait_procs([job], timeout=30)
        terminal.send("echo left with $?\r")
        terminal.wait_for("left with 0")


def test_ctrl_c_at_the_prompt_does_not_quit(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think") as terminal:
        terminal.wait_for("\n>")
        terminal.send("\x03")
        terminal.wait_for("Ctrl-D quits", count=2)
        terminal.send("not this\x03" + QUESTION + "\r")
        terminal.wait_for(ANSWER)
        terminal.send("\x04")
        assert terminal.exit_code() == 0


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_and_dumb_terminals_get_no_colors(toy_gguf: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    with chat(toy_gguf, tmp_path, "--no-think", **environment) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("context ")
        assert ANSWER in terminal.text
        styles = {int(code) for codes in re.findall(rb"\x1b\[([\d;]+)m", terminal.raw) for code in codes.split(b";")}
        assert not styles & {*range(30, 49), *range(90, 108)}
        terminal.send("\x04")
        assert terminal.exit_code() == 0


def test_prompt_argument_on_a_terminal_is_answered_without_a_chat(toy_gguf: Path, tmp_path: Path) -> None:
    with chat(toy_gguf, tmp_path, "--no-think", QUESTION) as terminal:
        assert terminal.exit_code() == 0
        assert terminal.text.strip() == ANSWER


# ------------------------------------------------------------------ in a pipe


@pytest.mark.parametrize("think", ["--think", "--no-think"])
def test_chat_in_a_pipe_prints_only_the_answer_on_stdout(toy_gguf: Path, think: str) -> None:
    done = pipe(toy_gguf, think, stdin=QUESTION.encode() + b"\n")
    assert (done.stdout.decode(), done.stderr, done.returncode) == (f"{ANSWER}\n", b"", 0)


def test_prompt_arguments_follow_piped_text(toy_gguf: Path) -> None:
    joined = pipe(toy_gguf, "--no-think", "of", "France?", stdin=b"What is the capital\n")
    assert joined.stdout == pipe(toy_gguf, "--no-think", stdin=b"What is the capital\n\nof France?").stdout


def test_chat_json_is_one_object(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "--json", QUESTION)
    result = json.loads(done.stdout)
    assert done.stdout.count(b"\n") == 1
    assert result["answer"].strip() == ANSWER
    assert result["thinking"].strip()
    assert result["finish_reason"] == "stop"
    assert result["usage"]["answer_tokens"] > 0
    assert result["model"]["architecture"] == "qwen35moe"


def test_verbose_prints_statistics_on_stderr(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "--verbose", QUESTION)
    assert done.stdout.decode() == f"{ANSWER}\n"
    assert b"tokens/s" in done.stderr


def test_truncated_answer_is_a_warning(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "--no-think", "-n", "3", QUESTION)
    assert done.stderr == b"qwenctl: warning: the answer is incomplete: cut at 3 tokens (-n)\n"
    assert done.returncode == 0


def test_prompt_longer_than_the_context_is_refused(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "-c", "256", stdin=b"word " * 2000)
    assert done.returncode == 65
    assert done.stdout == b""
    assert done.stderr.startswith(b"qwenctl: error: ")
    assert b"256" in done.stderr


def test_stray_invalid_utf8_on_stdin_is_a_warning(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "--no-think", stdin=b"caf\xe9 " + b"and much more text " * 10 + b"\xff\xfe")
    assert done.returncode == 0
    assert done.stderr.startswith(b"qwenctl: warning: stdin byte ")


def test_random_bytes_on_stdin_are_refused(toy_gguf: Path) -> None:
    done = pipe(toy_gguf, "--no-think", stdin=b"caf\xe9 " + os.urandom(200) + b"\xff\xfe")
    assert done.returncode == 65
    assert done.stderr.startswith(b"qwenctl: error: standard input is ")


def test_closed_pipe_ends_chat_quietly(toy_gguf: Path) -> None:
    command = f"({' '.join(QWENCTL)} chat -m {toy_gguf} '{QUESTION}'; echo $? >&2) | :"
    done = subprocess.run(
        ["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )
    assert done.stderr == b"141\n"


def test_full_disk_while_printing_the_answer_is_one_line(toy_gguf: Path) -> None:
    command = f"{' '.join(QWENCTL)} chat -m {toy_gguf} '{QUESTION}' > /dev/full"
    done = subprocess.run(
        ["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )
    assert done.stderr == b"qwenctl: error: cannot write the output (no space left on device)\n"
    assert done.returncode == 74


@pytest.mark.parametrize("stdin", ["< /dev/null", "<&-"])
def test_missing_prompt_is_refused_without_waiting(toy_gguf: Path, stdin: str) -> None:
    command = f"{' '.join(QWENCTL)} chat -m {toy_gguf} {stdin}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"qwenctl: error: no prompt")


def start_long_prefill(model: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a chat in a pipe; its engine has begun a prefill that takes long."""
    (folder / "long.txt").write_text("word " * 15_000)
    command = [*QWENCTL, "chat", "-m", str(model), "-c", "65536"]
    with (folder / "long.txt").open("rb") as text:
        process = subprocess.Popen(command, stdin=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: any(engine.cpu_times().user > 1 for engine in engines(process)))
    return process


def engines(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_during_prefill_ends_the_chat_and_its_engine(
    toy_gguf: Path, tmp_path: Path, number: int, code: int
) -> None:
    with start_long_prefill(toy_gguf, tmp_path) as process:
        [engine] = engines(process)
        process.send_signal(number)
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == code
        assert not engine.is_running()


def test_engine_crash_in_a_pipe_is_one_line(toy_gguf: Path, tmp_path: Path) -> None:
    with start_long_prefill(toy_gguf, tmp_path) as process:
        engines(process)[0].send_signal(signal.SIGABRT)
        out, errors = process.communicate(timeout=30)
        line, hint = errors.decode().splitlines()
        assert (out, line) == (b"", "qwenctl: error: the model engine stopped while it read the prompt (SIGABRT)")
        assert hint.startswith(
            "  hint: llama.cpp's check had passed; `qwenctl doctor --measure` checks again; its log: "
        )
        assert process.returncode == 70
