"""Commands without a writable home folder, as in cron jobs and containers: what is only useful is no condition."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.cli_runner import Result, run
from tests.support.paths import TOY

QUESTION, ANSWER = "What is the capital of France?", "Paris"


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; the home folder lies below a file, so that root cannot create anything there either."""
    (tmp_path / "file").touch()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "home" / "hub"))
    for name in ("CACHE", "STATE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "file" / name))
    return tmp_path / "work"


def done(*arguments: str, stdin: bytes = b"") -> Result:
    result = run(*arguments, stdin=stdin)
    assert (result.returncode, b"error" in result.stderr) == (0, False), result.stderr
    return result


def test_an_answer_and_a_batch_need_no_home(homeless: Path, toy_gguf: Path) -> None:
    options = ("-m", str(toy_gguf), "-t", "1", "-c", "512")
    answer = done("chat", *options, "--no-think", stdin=QUESTION.encode())
    assert (ANSWER in answer.stdout.decode(), answer.stderr) == (True, b"")
    (homeless / "in.jsonl").write_text(json.dumps({"prompt": QUESTION}) + "\n")
    done("batch", "in.jsonl", "-o", "out.jsonl", "--no-think", *options)
    assert ANSWER in (homeless / "out.jsonl").read_text("utf-8")


def test_a_prefix_from_a_file_needs_no_home(homeless: Path, toy_gguf: Path) -> None:
    (homeless / "prefix.txt").write_text("You are terse.")
    options = ("-m", str(toy_gguf), "-t", "1", "-c", "512", "--no-think", "--prefix", "prefix.txt")
    assert ANSWER in done("chat", *options, QUESTION).stdout.decode()


@pytest.mark.parametrize(
    "arguments",
    [("ls",), ("show", "MODEL"), ("verify", "MODEL"), ("plan", "MODEL"), ("sessions",), ("prefixes",), ("clean",),
     ("config", "show"), ("quantize", str(TOY), "--type", "Q4_0", "-o", "out.gguf", "--no-vision")],
)  # fmt: skip
def test_commands_that_save_nothing_at_home_need_none(
    arguments: tuple[str, ...], homeless: Path, toy_gguf: Path
) -> None:
    assert homeless.is_dir()
    done(*(str(toy_gguf) if word == "MODEL" else word for word in arguments))


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="the system has no extended attributes")
def test_quantize_knows_without_a_home_what_it_has_made(homeless: Path) -> None:
    command = ("quantize", str(TOY), "--type", "Q4_0", "-o", "out.gguf")
    done(*command)
    made = {path.name: path.stat().st_mtime_ns for path in homeless.iterdir()}
    assert b"is here already" in done(*command).stderr
    assert {path.name: path.stat().st_mtime_ns for path in homeless.iterdir()} == made
    assert run(*command[:3], "Q8_0", *command[4:]).returncode == 73
    with Path("out.gguf").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert run(*command).returncode == 73


def test_what_must_be_saved_at_home_is_refused_with_a_hint(homeless: Path, toy_gguf: Path) -> None:
    (homeless / "prefix.txt").write_text("You are terse.")
    options = ("-m", str(toy_gguf), "-t", "1", "-c", "512", "--prefix", "prefix.txt", "--save-as", "terse")
    result = run("chat", *options, QUESTION, stdin=b"")
    assert result.returncode == 73
    assert b"XDG_DATA_HOME" in result.stderr
