"""Saved prefixes: a long text that starts many conversations is evaluated once, saved by name and used again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwenctl.chat.conversation import Conversation
from qwenctl.engine.client import Engine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Generate, GenerationFinished, PrefillProgress, PrefixReady, Sampling, TextDelta
from tests.support.chat_sessions import chat, run

FACTS = ("Ada is 36 years old. ", "The capital of France is Paris. ", "2 + 3 = 5. ", "My name is Linus. ")
BRIEF = ("--no-think", "--temp", "0", "-n", "20", "-t", "1")
TEXT = "".join(FACTS[(at * at) % 4] for at in range(40))
LONG = "".join(FACTS[(at * at + at // 7) % 4] for at in range(420))


def answer(home: Path, *options: str) -> dict[str, Any]:
    done = run(home, "chat", *BRIEF, "--json", *options, "What is the capital of France?")
    assert done.returncode == 0, done.stderr
    fields: dict[str, Any] = json.loads(done.stdout)
    return fields


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, toy_gguf: Path) -> Path:
    """A home with a file that is saved as the prefix "book"."""
    home = tmp_path_factory.mktemp("home")
    (home / "book.txt").write_text(TEXT)
    done = run(home, "chat", "-m", str(toy_gguf), "--prefix", str(home / "book.txt"), "--keep", "book")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"saved: qwenctl chat --prefix book\n"
    return home


@pytest.fixture
def saved(home: Path, tmp_path: Path) -> Path:
    """A copy of that home that a test may change."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_saved_prefix_is_cached_and_gives_the_answer_of_its_text(saved: Path, toy_gguf: Path) -> None:
    from_text = answer(saved, "-m", str(toy_gguf), "--prefix", str(saved / "book.txt"))
    (saved / "book.txt").unlink()
    from_state = answer(saved, "-m", str(toy_gguf), "--prefix", "book")
    assert from_text["usage"]["cached_tokens"] == 0
    assert from_state["usage"]["cached_tokens"] > 300
    assert from_state["usage"]["prompt_tokens"] - from_state["usage"]["cached_tokens"] < 40
    assert from_state["answer"] == from_text["answer"]


def test_chat_starts_with_a_saved_prefix(saved: Path, toy_gguf: Path) -> None:
    with chat(saved, "-m", str(toy_gguf), "--prefix", "book", *BRIEF) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("What is the capital of France?\r")
        terminal.wait_for("context ")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    [row] = json.loads(run(saved, "sessions", "--json").stdout)
    assert json.loads(run(saved, "sessions", "show", row["name"], "--json").stdout)["messages"][0]["content"] == TEXT


def test_prefixes_are_listed_shown_and_deleted(saved: Path) -> None:
    [row] = json.loads(run(saved, "prefixes", "--json").stdout)
    assert (row["name"], row["messages"]) == ("book", 1)
    assert row["state_bytes"] > 10_000
    assert run(saved, "prefixes").stdout.startswith(b"book  ")
    assert run(saved, "prefixes", "show", "book").stdout.decode() == f"{TEXT}\n"
    assert run(saved, "prefixes", "delete", "book").returncode == 0
    assert run(saved, "prefixes").stdout == b""
    assert run(saved, "sessions").stdout == b""


def test_saved_prefix_is_readable_only_by_its_owner(saved: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (saved / "qwenctl" / "prefixes").rglob("*")}
    assert modes == {"book": 0o700, "conversation.json": 0o600, "lock": 0o600, "state": 0o600}


def test_prefix_saved_with_another_cache_type_is_evaluated_again(saved: Path, toy_gguf: Path) -> None:
    other = ("-m", str(toy_gguf), "--prefix", "book", "-ctk", "q8_0")
    done = run(saved, "chat", *BRIEF, *other, "What is the capital of France?")
    assert b"the prefix 'book' was evaluated again: it was made with another" in done.stderr
    assert answer(saved, *other)["usage"]["cached_tokens"] > 300


def test_each_set_of_functions_has_its_own_prefix_state(saved: Path, toy_gguf: Path) -> None:
    tools = saved / "tools.json"
    tools.write_text('[{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}]')
    with_tools = ("-m", str(toy_gguf), "--prefix", "book", "--tools", str(tools))
    # The first answer evaluates the prefix again, and saves its state next to the other one.
    assert answer(saved, *with_tools)["usage"]["cached_tokens"] > 300
    assert answer(saved, "-m", str(toy_gguf), "--prefix", "book")["usage"]["cached_tokens"] > 300
    assert len(list((saved / "qwenctl" / "prefixes" / "book").glob("state*"))) == 2


def test_folder_can_be_saved_as_a_prefix(tmp_path: Path, toy_gguf: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("print(1)\n")
    done = run(tmp_path, "chat", "-m", str(toy_gguf), "--prefix", str(tmp_path / "code"), "--keep", "code")
    assert done.returncode == 0
    assert b"a.py:\n```\nprint(1)\n```" in run(tmp_path, "prefixes", "show", "code").stdout


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (("--prefix", "boo"), b"no saved prefix is named 'boo'\n  hint: available: book\n", ExitCode.NO_INPUT),
        (("--prefix", "no/such"), b"no/such: no such file or directory\n", ExitCode.NO_INPUT),
        (("--keep", "x"), b"--save-as needs --prefix FILE\n", ExitCode.USAGE),
        (("--prefix", "book", "-sys", "x"), b"the prefix 'book' already has a system prompt\n", ExitCode.USAGE),
        (("--prefix", __file__, "--keep", "a/b"), b"'a/b' cannot be the name of a saved prefix\n", ExitCode.USAGE),
        (("--prefix", __file__, "--keep", "x", "-c", "256"), b"tokens, context is 256\n", ExitCode.BAD_DATA),
    ],
)  # fmt: skip
def test_unusable_prefix_is_refused(
    saved: Path, toy_gguf: Path, options: tuple[str, ...], message: bytes, code: ExitCode
) -> None:
    done = run(saved, "chat", "-m", str(toy_gguf), *options, "hi")
    assert message in done.stderr
    assert done.returncode == code
    assert done.stderr.count(b"\n") <= 2


def prefill_until(engine: Engine, file: Path, until: int) -> PrefixReady | PrefillProgress:
    """The last event of the prefill of LONG, which is cancelled after `until` tokens."""
    messages = Conversation().with_system(LONG).prompt_messages
    last: PrefixReady | PrefillProgress = PrefillProgress(0, 0)
    for last in engine.read_prefix(messages, state_path=file):
        if isinstance(last, PrefillProgress) and last.done >= until:
            engine.cancel()
    return last


def kill_at(tokens: int, engine: Engine, events: Iterator[PrefillProgress | PrefixReady]) -> None:
    for event in events:
        if isinstance(event, PrefillProgress) and event.done > tokens:
            os.kill(engine.pid, signal.SIGKILL)


def greedy_answer(engine: Engine) -> tuple[str, int]:
    """The greedy answer to a question after LONG, and the number of cached prompt tokens."""
    messages = Conversation().with_system(LONG).with_user("What is the capital of France?").prompt_messages
    *output, last = engine.generate(
        Generate(messages, enable_thinking=False, sampling=Sampling(temperature=0), max_tokens=20)
    )
    assert isinstance(last, GenerationFinished)
    return "".join(event.text for event in output if isinstance(event, TextDelta)), last.usage.cached_tokens


@pytest.mark.slow
def test_prefill_of_a_long_prefix_resumes_after_cancel_and_kill(toy_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "state"
    settings = LoadParams(threads=1, batch_tokens=512)
    with Engine.start(tmp_path) as engine:
        list(engine.load(toy_gguf, settings))
        stopped = prefill_until(engine, file, until=1024)
        assert isinstance(stopped, PrefixReady)
        assert 1024 <= stopped.tokens < stopped.total
        events = engine.read_prefix(Conversation().with_system(LONG).prompt_messages, state_path=file)
        first = next(events)
        assert isinstance(first, PrefillProgress)
        assert first.total == stopped.total - stopped.tokens  # no token is evaluated twice
        with pytest.raises(QwenctlError, match="SIGKILL"):
            kill_at(stopped.total - stopped.tokens - 600, engine, events)
    with Engine.start(tmp_path) as engine:
        list(engine.load(toy_gguf, settings))
        assert engine.restore(file).tokens > stopped.tokens
        done = prefill_until(engine, file, until=10**9)
        assert done == PrefixReady(stopped.total, stopped.total)
        assert engine.restore(file).tokens == stopped.total
        output, cached = greedy_answer(engine)
        assert cached == stopped.total
    with Engine.start(tmp_path) as engine:
        list(engine.load(toy_gguf, settings))
        assert greedy_answer(engine) == (output, 0)  # the same answer as after one uninterrupted prefill


def test_batch_evaluates_a_saved_prefix_once(saved: Path, toy_gguf: Path) -> None:
    questions = saved / "in.txt"
    questions.write_text("What is the capital of France?\nWho are you?\n")
    options = ("batch", "--lines", str(questions), "-m", str(toy_gguf), *BRIEF, "-np", "2", "--json")
    runs = [
        run(saved, *options, "--prefix", prefix, "-o", str(saved / name))
        for prefix, name in (("book", "1.jsonl"), ("book", "2.jsonl"), (str(saved / "book.txt"), "3.jsonl"))
    ]
    assert [done.returncode for done in runs] == [0, 0, 0], runs
    first, second, from_text = ((saved / name).read_text() for name in ("1.jsonl", "2.jsonl", "3.jsonl"))
    assert first == second == from_text
    prompt_tokens = [json.loads(done.stdout)["prompt_tokens"] for done in runs]
    assert prompt_tokens[0] > 300
    assert prompt_tokens[1] < 80
    different = run(saved, *options, "--prefix", "book", "--system", "Be brief.")
    assert b"--prefix and --system cannot be used together" in different.stdout
