"""Command lines run up to their work: the values with which it would begin, or the message that refuses them.

The functions that do the work are replaced by ones that end the command and tell what they were given; commands that
only print run as they are. Two command lines that give the same text do the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, chdir
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import typer

from quantize.errors import QuantizeError
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.cli import app
from qwenctl.errors import QwenctlError
from qwenctl.hub.local.lock_file import LockedFile, LockedModel, write_lock
from qwenctl.hub.local.stale_downloads import StaleDownload
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.select.target import ResolvedTarget
from qwenctl.machine.devices import Build
from qwenctl.placement.engine_args import load_params
from qwenctl.settings.defaults import SettingsContext
from tests.support.chat_sessions import LOADED

ROOT: Any = typer.main.get_command(app)
COMMANDS = "qwenctl.commands"
# The work of each command, none of which is done here.
WORK = (
    f"{COMMANDS}.chat.single_answer._ask", f"{COMMANDS}.chat.single_answer._save_prefix",
    f"{COMMANDS}.chat.command._run_chat", "qwenctl.batch.run", "qwenctl.batch.estimate",
    f"{COMMANDS}.quantize.command._quantize_folder", f"{COMMANDS}.models.pull.quantize_remote",
    f"{COMMANDS}.models.pull.pull_target", f"{COMMANDS}.models.pull.show_local",
    f"{COMMANDS}.models.pull_flow._pull", f"{COMMANDS}.models.pull_flow._make_locked",
    f"{COMMANDS}.models.pull_flow._show_locked", f"{COMMANDS}.models.ls._list_local", f"{COMMANDS}.plan._plan",
    f"{COMMANDS}.models.ls._list_remote", f"{COMMANDS}.bench._measure_cases", "qwenctl.doctor.checks.run_checks",
    "qwenctl.machine.rpc_worker.serve",
)  # fmt: skip
COMMIT = "c" * 40
FILES = (LockedFile("model.safetensors", 1, "f" * 64),)
SHARD = RemoteFile("model.safetensors", 1, "e" * 40)


class Reached(Exception):
    """The values that a command would work with."""


def capture(*values: Any, **named: Any) -> None:
    """Stand in for what does the work. Raises Reached."""
    raise Reached(repr((values, sorted(named.items(), key=lambda item: item[0]))))


class CommandRunner:
    """Runs command lines in a folder of its own, in which all files are that an option of `VALUES` can name."""

    def __init__(self, folder: Path, gguf: Path, toy: Path, output: Callable[[], str]) -> None:
        self.given = {"MODEL": str(gguf), "FOLDER": str(toy)}
        self.output = output
        self.target = ResolvedTarget(Listing("a/b", "main", COMMIT, (SHARD,)), "Q8_0", (SHARD,))
        self.on_terminal = False
        (folder / "text.txt").write_text("a text")
        (folder / "template.jinja").write_text("{{ messages[0].content }}")
        (folder / "tools.json").write_text('[{"name": "now", "command": ["date"]}]')
        (folder / "tower.gguf").write_bytes(gguf.read_bytes())
        made = LockedModel("a/b", COMMIT, "Q8_0", FILES)
        write_lock(folder / "pulled.lock", [made])
        write_lock(folder / "made.lock", [replace(made, recipe="Q8_0", outputs=FILES)])
        opened = SessionStore(folder / "data" / "qwenctl" / "sessions").open("saved")
        opened.save(Conversation().with_user("Hi").with_answer("Hello", ""), gguf, LOADED)
        opened.close()

    def run(self, *arguments: str, settings: Mapping[str, Mapping[str, str]] = MappingProxyType({})) -> str:
        """The values that the command line would work with, what it prints, or the message with which it is refused.

        `settings` are those of a file, by command.
        """
        self.output()
        words = [self.given.get(word, word) for word in arguments]
        try:
            with ExitStack() as stack:
                for replaced in self._replaced():
                    stack.enter_context(replaced)
                told = {"default_map": settings} if settings else {}
                ROOT.main(
                    words, standalone_mode=False, obj=SettingsContext(ROOT) if words[0] == "config" else None, **told
                )
            found = "done"
        except (Reached, QwenctlError, QuantizeError) as error:
            found = str(error)
        except typer.BadParameter as error:
            found = error.format_message()
        except SystemExit as error:
            found = f"exit {error.code}"
        return normalized(found + self.output())

    def _replaced(self) -> Iterator[Any]:
        row = {"file": "a", "bytes": 1, "path": "a", "expected": "", "message": None}
        rows = [{**row, "state": "ok"}, {**row, "state": "damaged"}]
        yield from (patch(name, capture) for name in WORK)
        seen: list[Any] = []  # what is asked of the Hub belongs to the values too

        def target(_name: Any, *values: Any) -> ResolvedTarget:
            seen.extend(values)
            return self.target

        yield patch(f"{COMMANDS}.models.pull._target", target)
        yield patch(f"{COMMANDS}.models.pull.quantize_remote", lambda *values: capture(seen, *values))
        yield patch(f"{COMMANDS}.models.pull.pull_target", lambda *values: capture(seen, *values))
        yield patch(f"{COMMANDS}.models.pull_flow.fetch_listing", lambda *_: self.target.listing)
        yield patch("qwenctl.hub.local.lock_file.find_locked_files", lambda *_: ())
        for module in ("chat_job", "single_answer"):
            yield patch(f"{COMMANDS}.chat.{module}.piped_input", lambda: None)
        yield patch(f"{COMMANDS}.quantize.command._quantize_repository", capture)
        yield patch(f"{COMMANDS}.models.verify._check", lambda *_, **__: (rows, []))
        for module in ("verify", "rm"):
            yield patch(f"{COMMANDS}.models.{module}.find_installed", lambda *_, **__: [])
        yield patch("qwenctl.hub.local.removal.remove_models", lambda *_: 0)
        leftover = StaleDownload(Path("missing.part"), 1)
        yield patch("qwenctl.hub.local.stale_downloads.find_stale_downloads", lambda _: [leftover])
        yield patch("qwenctl.tune.search.search", _measure_once)
        yield patch(f"{COMMANDS}.tune._load_params", lambda _, load: (load_params(load.constraints), None))
        yield patch(f"{COMMANDS}.tune._measure_turn", lambda *values: repr(values))
        yield patch("qwenctl.machine.devices.read_build", lambda: Build(("CPU", "RPC")))
        yield patch("qwenctl.machine.rpc_worker.select_devices", lambda *values: [SimpleNamespace(name=values)])
        yield patch("qwenctl.backend_check.check.require_backend", lambda *_, **__: None)
        yield patch("qwenctl.machine.rpc_worker.RpcEndpoint", _Endpoint)
        yield patch("qwenctl.machine.rpc_worker.free_port", lambda _, port: port or 1)
        if self.on_terminal:
            yield patch(f"{COMMANDS}.chat.command.is_terminal", lambda _: True)


class _Endpoint:
    """A worker's address, whatever its devices are."""

    def __init__(self, *values: Any) -> None:
        self.port, self.values = 1, values

    def __repr__(self) -> str:
        return repr(self.values)


def _measure_once(constraints: Any, groups: Any, measure: Callable[[Any], str], *values: Any) -> None:
    capture(constraints, list(groups), measure(constraints), values[0])


def normalized(values: str) -> str:
    """`values` without the addresses of objects and names of temporary folders."""
    return re.sub(r"0x[0-9a-f]+|qwenctl-[\w-]+", "", values)


def command_runner(
    tmp_path: Path, toy_gguf: Path, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[CommandRunner]:
    """A `CommandRunner` in `tmp_path`, which is the current folder meanwhile."""
    for name in ("DATA", "STATE", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def output() -> str:
        done = capsys.readouterr()
        return done.out + done.err

    with chdir(tmp_path):
        yield CommandRunner(tmp_path, toy_gguf, toy, output)
