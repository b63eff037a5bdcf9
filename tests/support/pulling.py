"""Helpers for tests of pulls: repositories of random files, a Hub on loopback, a private cache."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from pathlib import Path

from tests.support import preloaded_cli
from tests.support.fake_hub import FakeHub, Repo, serve_folder

REPO = "qwen/Toy-GGUF"
QWENCTL = (sys.executable, "-m", "qwenctl")


def write_random(path: Path, size: int, seed: int) -> None:
    """Write a file of random bytes, the same for the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))


def one_file_repo(folder: Path, name: str, size: int) -> Repo:
    """A repository with one file of random bytes."""
    write_random(folder / name, size, 1)
    return serve_folder(folder)


def environment(hub: FakeHub | str, home: Path, **more: str) -> dict[str, str]:
    """Environment variables for `qwenctl`: this Hub, caches and state below `home`, no settings of the machine."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {
        **inherited,
        "HF_ENDPOINT": hub if isinstance(hub, str) else hub.url,
        "HF_HOME": str(home / "hf"),
        "XDG_STATE_HOME": str(home / "state"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "2",
        "NO_PROXY": "127.0.0.1",
        **more,
    }


def command(*arguments: str | Path) -> list[str]:
    """The command line of `qwenctl` with these arguments."""
    return [*QWENCTL, *map(str, arguments)]


def qwenctl(hub: FakeHub | str, home: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `qwenctl` to its end, without a terminal."""
    return preloaded_cli.run([*map(str, arguments)], environment(hub, home, **more))


def failure(done: subprocess.CompletedProcess[str]) -> tuple[str, str, int]:
    """The error line, its hint and the exit code; asserts that there is no further output."""
    assert done.stdout == ""
    found = re.search(r"^qwenctl: error: (.*)\n(?:  hint: (.*)\n)?\Z", done.stderr, re.MULTILINE)
    assert found, done.stderr
    return found[1], found[2] or "", done.returncode


def hub_cache(home: Path) -> Path:
    """The Hugging Face cache of these tests."""
    return home / "hf" / "hub"


def snapshot(home: Path, repo: Repo, name: str = REPO) -> Path:
    """The snapshot folder of a repository in the cache."""
    return hub_cache(home) / f"models--{name.replace('/', '--')}" / "snapshots" / repo.commit


def assert_whole(home: Path, repo: Repo, *paths: str) -> None:
    """Assert that the cache has exactly these files, identical to those on the Hub."""
    folder = snapshot(home, repo).parent.parent
    for path in paths:
        content = (snapshot(home, repo) / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == repo.files[path].sha256, path
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    names = {f"snapshots/{repo.commit}/{path}" for path in (*paths, "qwenctl.lock.json")}
    blobs = {f"blobs/{repo.files[path].etag}" for path in paths}
    assert there == names | blobs | {"refs/main"}
    assert [path for path in (hub_cache(home) / ".locks").rglob("*") if path.is_file()] == []


def saved(home: Path) -> int:
    """The bytes on disk of unfinished downloads."""
    return sum(path.stat().st_blocks * 512 for path in hub_cache(home).rglob("*.part"))
