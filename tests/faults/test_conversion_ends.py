"""A conversion that is killed at any step after its last tensor is finished by the same command."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import checkpoints
from tests.support.cli_runner import run
from tests.support.fake_hub import FakeHub, Repo, serve_folder
from tests.support.paths import ROOT
from tests.support.pulling import command, environment
from tests.support.qwen35_layout import Model

pytestmark = pytest.mark.timeout(3600)  # for every step
SMALL, REPO = Model(experts=0, width=64, hidden=64, vision=None), "Qwen/Small"
EVERY = 1 if "FULL_COUNTS" in os.environ else 5  # of the steps


def kill_at(step: int, arguments: Sequence[str], folder: Path, settings: dict[str, str]) -> bool:
    """Run a command that is killed at this step; whether it has so many. Without a kill it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.stop_points", str(step), *arguments],
        cwd=folder, env={**settings, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_quantize_killed_at_any_step_of_its_end_is_finished_by_the_same_command(tmp_path: Path) -> None:
    source, state = checkpoints.make(tmp_path / "model", SMALL), tmp_path / "state"
    output = tmp_path / "made" / "out.gguf"
    arguments = ["quantize", str(source), "-o", str(output), "--type", "Q8_0", "-q"]
    settings = {"XDG_STATE_HOME": str(state)}
    output.parent.mkdir()
    assert run(*arguments, **settings).returncode == 0
    clean, step, was_killed = hash_of(output), 0, True
    while was_killed:
        shutil.rmtree(output.parent)
        shutil.rmtree(state)
        output.parent.mkdir()
        was_killed = kill_at(step, arguments, tmp_path, {**os.environ, **settings})
        done = run(*arguments, **settings)
        assert (done.returncode, done.stderr) == (0, b""), step
        assert hash_of(output) == clean
        assert sorted(path.name for path in output.parent.iterdir()) == ["out.gguf", "qwenctl.lock.json"]
        assert str(output) in {model["path"] for model in json.loads(run("ls", "--json", **settings).stdout)}
        step += EVERY
    assert step > 20


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return serve_folder(checkpoints.make(tmp_path_factory.mktemp("source") / "small", SMALL))


@pytest.fixture
def hub(repo: Repo) -> Iterator[FakeHub]:
    with FakeHub({REPO: repo}) as hub:
        yield hub


def test_pull_quantize_killed_at_any_step_of_its_end_is_finished_by_the_same_command(
    hub: FakeHub, tmp_path: Path
) -> None:
    folder, home = tmp_path / "made", tmp_path / "home"
    arguments = ["pull", REPO, "--quantize", "Q8_0", "-o", "out.gguf", "-q"]
    settings, step, was_killed = environment(hub, home), 0, True
    while was_killed:
        for old in (folder, home):
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir()
        was_killed = kill_at(step, arguments, folder, settings)
        done = subprocess.run(
            command(*arguments), cwd=folder, env=settings, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "out.gguf\n"), step
        assert sorted(path.name for path in folder.iterdir()) == ["out.gguf", "qwenctl.lock.json"]
        (model,) = json.loads((folder / "qwenctl.lock.json").read_text())["models"]
        assert [file["sha256"] for file in model["outputs"]] == [hash_of(folder / "out.gguf")]
        listed = (home / "state" / "qwenctl" / "models.jsonl").read_text()
        assert str(folder / "out.gguf") in listed
        step += EVERY
    assert step > 20
