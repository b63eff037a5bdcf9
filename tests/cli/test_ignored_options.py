"""Every option of chat and batch has an effect on the values that travel, or is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import qwenctl.batch
from qwenctl.cli import app
from qwenctl.commands.chat import command as chat
from qwenctl.errors import QwenctlError

# A value for each option that is not a switch; an option without one here is new, and needs one.
VALUES = {
    "model": "other", "ctx_size": "512", "threads": "3", "batch_size": "64", "ubatch_size": "32", "gpu_layers": "2",
    "n_cpu_moe": "1", "override_tensor": "x=CPU", "fit_target": "2G", "tensor_split": "1,2", "device": "none",
    "rpc": "localhost:1", "cache_type_k": "q8_0", "cache_type_v": "q8_0", "flash_attn": "on", "load_mode": "none",
    "snapshot_ram": "1G", "plan": "plan.json", "predict": "0", "system_prompt": "Be brief.", "image": "a.png",
    "mmproj": "tower.gguf", "image_min_tokens": "65", "image_max_tokens": "4095", "fps": "3", "max_frames": "3",
    "think_budget": "0", "on_full": "summarize", "json_schema": "{}", "grammar": 'root ::= "a"', "prefix": "text.txt",
    "temp": "0", "top_k": "0", "top_p": "0", "min_p": "0.5", "presence_penalty": "0", "frequency_penalty": "1",
    "repeat_penalty": "2", "repeat_last_n": "0", "seed": "5", "draft": "off", "draft_max": "2", "draft_min": "1",
    "tools": "tools.json", "tool_timeout": "5", "color": "never", "save_as": "name", "resume": "missing",
    "output": "out.jsonl", "prompt": "{a}", "system": "{b}", "keep": "a", "style": "openai", "select": "id",
    "order": "done", "parallel": "2", "limit": "2", "sample": "2", "endpoint": "http://127.0.0.1:1", "api_key": "k",
    "timeout": "5", "patience": "5", "plot": "p.svg", "chat_template": "template.jinja",
    "chat_template_kwargs": '{"mood": "calm"}',
}  # fmt: skip
BESIDE = {"save_as": ["--prefix", "text.txt"], "image_max_tokens": ["--image-min-tokens", "1"]}
# What these do is shown, or done around the batch, and is no part of its values.
NOT_IN_VALUES = {"batch": {"json", "quiet", "plot", "dry_run"}, "chat": set[str]()}


class _Reached(Exception):
    """The values that a command would work with."""


def _capture(*values: Any, **named: Any) -> None:
    raise _Reached(repr((values, sorted(named.items(), key=lambda item: item[0]))))


@pytest.fixture
def reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_gguf: Path) -> Callable[..., str]:
    """Run a command line up to its work: the values of it, or the message with which it is refused."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chat, "_run", _capture)
    monkeypatch.setattr(qwenctl.batch, "run", _capture)
    monkeypatch.setattr(qwenctl.batch, "estimate", _capture)
    Path("text.txt").write_text("a text")
    Path("template.jinja").write_text("{{ messages[0].content }}")
    Path("tools.json").write_text('[{"name": "now"}]')
    Path("tower.gguf").write_bytes(toy_gguf.read_bytes())

    def run(*arguments: str) -> str:
        given = [str(toy_gguf) if word == "MODEL" else word for word in arguments]
        try:
            typer.main.get_command(app).main(given, standalone_mode=False)
        except (_Reached, QwenctlError) as found:
            return str(found)
        except typer.BadParameter as found:
            return found.format_message()
        raise AssertionError(f"{arguments} did nothing")

    return run


def options_of(command: str) -> Iterator[Any]:
    commands: Any = typer.main.get_command(app)
    for parameter in commands.commands[command].params:
        if parameter.opts[0].startswith("-") and parameter.name not in ("help", "install_completion"):
            yield parameter


def normalized(values: str) -> str:
    """`values` without the addresses of objects and names of temporary folders."""
    return re.sub(r"0x[0-9a-f]+|qwenctl-[\w-]+", "", values)


@pytest.mark.parametrize(("command", "basis"), [("chat", ["hi"]), ("batch", [])])
def test_every_option_reaches_the_values_that_travel_or_is_refused(
    reached: Callable[..., str], command: str, basis: list[str]
) -> None:
    ignored = []
    for parameter in options_of(command):
        beside = BESIDE.get(parameter.name, [])
        before = normalized(reached(command, "-m", "MODEL", *basis, *beside))
        flags = [*parameter.opts, *parameter.secondary_opts]
        spelled = [[flag] for flag in flags] if parameter.is_flag else [[flags[-1], VALUES[parameter.name]]]
        if all(normalized(reached(command, "-m", "MODEL", *basis, *beside, *words)) == before for words in spelled):
            ignored.append(parameter.name)
    assert set(ignored) <= NOT_IN_VALUES[command]


@pytest.mark.parametrize(
    "words",
    [
        ["chat", "--grammar", ""], ["chat", "-j", " "], ["chat", "-sys", ""], ["chat", "-i", ""], ["batch", "-j", ""],
        ["batch", "--prompt", ""], ["batch", "--system", ""], ["chat", "--prefix", ""],
        ["chat", "--device", ""], ["chat", "-ts", ""], ["batch", "--keep", ""],
    ],
)  # fmt: skip
def test_option_with_an_empty_value_is_refused(reached: Callable[..., str], words: list[str]) -> None:
    assert reached(words[0], "-m", "MODEL", *words[1:]).endswith(" is empty")


@pytest.mark.parametrize("option", ["--grammar", "--json-schema"])
@pytest.mark.parametrize("command", ["chat", "batch"])
def test_empty_file_of_a_constraint_is_refused(reached: Callable[..., str], command: str, option: str) -> None:
    Path("empty").write_text(" \n")
    assert reached(command, "-m", "MODEL", option, "empty") == f"{option} empty: the file is empty"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chat", "--grammar", "a ::= b", "-j", "{}"], "--grammar and --json-schema cannot be used together"),
        (["batch", "--grammar", "a ::= b", "-j", "{}"], "--grammar and --json-schema cannot be used together"),
        (["chat", "--tools", "tools.json", "-j", "{}"], "--tools and --json-schema cannot be used together"),
        (["chat", "-y"], "--yes has no effect without --tools"),
        (["chat", "--tool-timeout", "5"], "--tool-timeout has no effect without --tools"),
        (["batch", "--seed", "-1"], "--seed -1: a batch needs a seed, so that it can be resumed"),
        (["batch", "--patience", "5"], "--patience has no effect without --endpoint"),
        (["batch", "--endpoint", "http://x", "-ngl", "5"], "--gpu-layers and --endpoint cannot be used together"),
        (["batch", "--endpoint", "http://x", "--mmproj", "m"], "--mmproj and --endpoint cannot be used together"),
    ],
)  # fmt: skip
def test_options_that_ignore_each_other_are_refused(
    reached: Callable[..., str], words: list[str], message: str
) -> None:
    assert reached(words[0], "-m", "MODEL", *words[1:]) == message
