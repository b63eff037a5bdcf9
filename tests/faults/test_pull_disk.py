"""Pulls to disks that are too small, fill up, or cannot be written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub, Repo, serve_folder
from tests.support.paths import DATA
from tests.support.pulling import (
    REPO,
    assert_whole,
    command,
    environment,
    failure,
    hub_cache,
    one_file_repo,
    qwenctl,
    saved,
)

SIZE = 20_000_000
MODEL, NAME = f"{REPO}:Q4_K_M", "Toy-Q4_K_M.gguf"


def can_mount() -> bool:
    done = subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False)
    return done.returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="this machine does not let a test mount a file system")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return one_file_repo(tmp_path_factory.mktemp("repo"), NAME, SIZE)


@pytest.fixture
def hub(repo: Repo) -> Iterator[FakeHub]:
    with FakeHub({REPO: repo}, rate=5e6) as hub:
        yield hub


def run_in_namespace(hub: FakeHub, home: Path, script: str, *pull: str) -> subprocess.CompletedProcess[str]:
    """Run a script in its own mount namespace; $1 is an empty folder, the rest the command line of a pull."""
    (home / "disk").mkdir(exist_ok=True)
    return subprocess.run(
        ["unshare", "-Urm", "bash", "-ec", script, "bash", str(home / "disk"), *command("pull", *(pull or (MODEL,)))],
        env=environment(hub, home, HF_HOME=str(home / "disk")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_mount
def test_too_small_disk_is_refused_before_the_first_byte(hub: FakeHub, tmp_path: Path) -> None:
    done = run_in_namespace(hub, tmp_path, 'mount -t tmpfs -o size=15m tmpfs "$1"; shift; exec "$@"')
    line, hint, code = failure(done)
    assert re.fullmatch(rf"needs 20\.4 MB, {tmp_path}/disk/hub has 15\.7 MB free \(4\.\d\d MB short\)", line)
    assert (hint, code) == ("`--to DIR`, a smaller quantization", 74)
    assert hub.sent == 0


FULL = """
mount -t tmpfs -o size=32m tmpfs "$1"; cd "$1"; shift
"$@" -q & pid=$!
until ls hub/models--*/blobs/*.part >/dev/null 2>&1; do sleep 0.01; done
cat /dev/zero > filler 2>/dev/null || true
wait $pid && exit 1 || echo "code $?"
ls hub/models--*/snapshots 2>/dev/null | wc -l
rm filler
"$@" -q
sha256sum < "$(ls hub/models--*/snapshots/*/*.gguf)"
"""


@needs_mount
def test_full_disk_keeps_the_downloaded_bytes(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    done = run_in_namespace(hub, tmp_path, FULL)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"qwenctl: error: disk full after \S+ .B of 20\.0 MB; saved for resume\n"
        r"  hint: free up space and run the same command again\n",
        done.stderr,
    )
    code, snapshots, path, checksum = done.stdout.splitlines()
    assert (code, snapshots) == ("code 74", "0")
    assert path.endswith(NAME)
    assert checksum.split()[0] == repo.files[NAME].sha256
    assert hub.sent < 1.05 * SIZE


FULL_SPOOL = """
mount -t tmpfs -o size=64m tmpfs "$1"; cd "$1"; shift
"$@" -q & pid=$!
until ls *.spool/shards/*.part >/dev/null 2>&1; do sleep 0.01; done
cat /dev/zero > filler 2>/dev/null || true
wait $pid && exit 1 || echo "code $?"
rm filler; ls
"$@" -q
ls
"""


@needs_mount
def test_disk_filled_during_a_streaming_conversion_allows_a_resume(tmp_path: Path) -> None:
    with FakeHub({"Qwen/Toy": serve_folder(DATA / "toy")}, rate=2e6) as hub:
        done = run_in_namespace(hub, tmp_path, FULL_SPOOL, "Qwen/Toy", "--quantize", "Q8_0", "--no-vision")
        size = sum(file.size for file in hub.repos["Qwen/Toy"].files.values())
        assert done.returncode == 0, done.stderr
        assert hub.sent < 1.05 * size
    assert re.fullmatch(
        r"qwenctl: error: disk full after \S+ .B of 24\.5 MB; saved for resume\n"
        r"  hint: free up space and run the same command again\n",
        done.stderr,
    )
    code, *there = done.stdout.splitlines()
    assert code == "code 74"
    assert there == ["Toy-Q8_0.gguf.spool", "Toy-Q8_0.gguf", "Toy-Q8_0.gguf", "qwenctl.lock.json"]


def test_file_size_limit_is_reported(hub: FakeHub, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 10000; exec {shlex.join(command('pull', MODEL))}"],
        env=environment(hub, tmp_path), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    line, hint, code = failure(done)
    assert re.fullmatch(r"\S+/blobs does not allow files as large as these \(`ulimit -f`\)", line)
    assert (hint, code) == ("raise the limit, or `--to DIR` on another file system", 74)


@needs_mount
def test_read_only_cache_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    done = run_in_namespace(hub, tmp_path, 'mount -t tmpfs -o ro tmpfs "$1"; shift; exec "$@"')
    line, hint, code = failure(done)
    assert line == f"cannot write to {tmp_path}/disk/hub (read-only file system)"
    assert (hint, code) == ("`--to DIR` or HF_HUB_CACHE=...; reading still works", 73)


@needs_mount
def test_read_only_cache_with_the_model_is_used(hub: FakeHub, tmp_path: Path) -> None:
    assert qwenctl(hub, tmp_path, "pull", MODEL).returncode == 0
    script = f'mount --bind -o ro {hub_cache(tmp_path)} {hub_cache(tmp_path)}; shift; HF_HOME={tmp_path}/hf exec "$@"'
    done = run_in_namespace(hub, tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"{NAME}\n")


def test_to_option_chooses_another_folder(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    done = qwenctl(hub, tmp_path, "pull", MODEL, "--to", tmp_path / "hf" / "hub")
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path, repo, NAME)
    assert saved(tmp_path) == 0
    assert os.path.realpath(done.stdout.strip()).endswith(repo.files[NAME].sha256)
