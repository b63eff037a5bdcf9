"""A large checkpoint quantized through a small spool by a process that is killed repeatedly.

With FULL_COUNTS set the checkpoint has 4 GB, the spool 500 MB, and there are 20 kills; otherwise a quarter of each.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import checkpoints
from tests.support.fake_hub import FakeHub, Repo, serve_folder
from tests.support.gguf_files import converted
from tests.support.pulling import command, environment
from tests.support.qwen35_layout import Model

REPO, FULL = "Qwen/Large", "FULL_COUNTS" in os.environ
BYTES, SPOOL, KILLS = (4e9, 500_000_000, 20) if FULL else (1e9, 125_000_000, 5)
MODEL = Model(
    hidden=2048 if FULL else 1024, layers=16, attention_heads=8, kv_heads=2, head_dim=256, key_heads=16, value_heads=32,
    linear_dim=128, width=512 if FULL else 256, experts=32, experts_used=4, shared_width=512, vision=None,
)  # fmt: skip


def make_checkpoint(folder: Path) -> tuple[Path, Repo]:
    """A checkpoint of finite BF16 weights in 50 shards, at its path in a Hugging Face cache."""
    checkpoints.make_sparse(folder, MODEL, shards=50)
    random_bits = np.random.default_rng(1)
    weights = random_bits.integers(0, 256, (1 << 20, 2), np.uint8)
    weights[:, 1] = random_bits.choice(np.array([0x3C, 0x3D, 0xBC, 0xBD], np.uint8), 1 << 20)  # magnitudes below 0.1
    block = weights.tobytes()
    for number, path in enumerate(sorted(folder.glob("*.safetensors"))):
        with path.open("r+b") as shard:
            shard.seek(8 + int.from_bytes(shard.read(8), "little"))
            left, start = path.stat().st_size - shard.tell(), 2 * 7919 * number % len(block)
            while left:
                left -= shard.write(block[start : start + left])
                start = 0
    repo = serve_folder(folder)
    cached = folder.parent / "models--Qwen--Large" / "snapshots" / repo.commit
    cached.parent.mkdir(parents=True)
    folder.rename(cached)
    moved = {name: replace(file, source=cached / name) for name, file in repo.files.items()}
    return cached, replace(repo, files=moved)


def disk_usage(folder: Path) -> int:
    """Bytes that all files below `folder` occupy on disk."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{root}/{name}").st_blocks * 512
            except FileNotFoundError:  # removed in the meantime
                continue
    return total


@contextmanager
def watch_disk_usage(folder: Path) -> Iterator[list[int]]:
    """The peak disk usage of the files below `folder` in bytes, as a list of one item updated while the block runs."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], disk_usage(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


@pytest.mark.slow
def test_killed_conversion_stays_within_the_spool_and_resumes(tmp_path: Path) -> None:
    source, repo = make_checkpoint(tmp_path / "source")
    size = sum(file.size for file in repo.files.values())
    assert size > BYTES
    folder, moments = tmp_path / "made", sorted(random.Random(1).uniform(0, size) for _ in range(KILLS))
    folder.mkdir()
    pull = command("pull", REPO, "--quantize", "Q8_0", "--spool", f"{SPOOL // 10**6}MB", "-o", "large.gguf", "-q")
    with FakeHub({REPO: repo}) as hub, watch_disk_usage(folder) as peak:
        settings = environment(hub, tmp_path / "home")
        for moment in moments:
            process = subprocess.Popen(pull, cwd=folder, env=settings, stderr=subprocess.PIPE)
            kill_when(lambda moment=moment: hub.sent >= moment, process)
            assert not (folder / "large.gguf").exists()
        subprocess.run(pull, cwd=folder, env=settings, check=True)
    output = folder / "large.gguf"
    beside = peak[0] - output.stat().st_size
    print(f"sent {hub.sent / size:.1%} of {size / 1e9:.2f} GB; the output and {beside / 1e6:.0f} MB of disk")
    assert sorted(path.name for path in folder.iterdir()) == ["large.gguf", "qwenctl.lock.json"]
    version = subprocess.run(command("--version"), capture_output=True, text=True, check=True).stdout.split()[1]
    converted(source, tmp_path / "whole.gguf", "Q8_0", tool_version=version)
    assert hash_of(output) == hash_of(tmp_path / "whole.gguf")
    assert beside <= SPOOL * 1.01
    assert hub.sent <= 1.05 * size


def kill_when(is_time: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Kill a process when `is_time` becomes true; it must still be running and have printed no errors."""
    end = time.monotonic() + 60
    while not is_time():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    assert process.communicate()[1] == b""


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
