"""A stopped or killed pull resumes where it was; of several pulls at once, only one downloads."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub, Repo, serve_folder
from tests.support.pulling import (
    REPO,
    assert_whole,
    command,
    environment,
    failure,
    hub_cache,
    qwenctl,
    saved,
    write_random,
)

SPLITS, SPLIT_BYTES = 6, 60_000_000
KILLS = 100 if "FULL_COUNTS" in os.environ else 20
MODEL = f"{REPO}:Q8_0"
NAMES = [f"Q8_0/Toy-Q8_0-{number:05d}-of-{SPLITS:05d}.gguf" for number in range(1, SPLITS + 1)]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("repo")
    for number, name in enumerate(NAMES):
        write_random(folder / name, SPLIT_BYTES, number)
    return serve_folder(folder)


@pytest.fixture
def hub(repo: Repo) -> Iterator[FakeHub]:
    with FakeHub({REPO: repo}, rate=4e6, cdn=True) as hub:
        yield hub


@contextmanager
def running_pull(hub: FakeHub, home: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A running pull that has already received some bytes."""
    with subprocess.Popen(
        command("pull", MODEL, *more),
        env=environment(hub, home),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            end = time.monotonic() + 60
            while saved(home) < 2_000_000:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_a_pull_and_reports_the_saved_bytes(
    number: signal.Signals, code: int, hub: FakeHub, repo: Repo, tmp_path: Path
) -> None:
    hub.rate = 1e6  # the whole model would take minutes
    with running_pull(hub, tmp_path) as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert hub.sent < 0.5 * SPLITS * SPLIT_BYTES
    assert (process.returncode, stdout) == (code, "")
    words = r"^qwenctl: error: stopped; (\S+) MB saved\n  hint: the same command resumes from there\n\Z"
    stopped = re.search(words, stderr, re.MULTILINE)
    assert stopped
    hub.rate = 0
    again = qwenctl(hub, tmp_path, "pull", MODEL)
    assert again.returncode == 0
    assert hub.sent < 1.01 * SPLITS * SPLIT_BYTES
    assert_whole(tmp_path, repo, *NAMES)
    assert_progress(again.stderr, float(stopped[1]))


def assert_progress(stderr: str, resumed: float) -> None:
    """Check the progress lines over all files: they start at `resumed` MB, never decrease, and end at 100%."""
    *lines, _, _ = stderr.splitlines()
    step = r" *(\d+)%  (\S+) MB of 360 MB, (?:\S+ .B/s, \S+ left|waiting|verifying|done)"
    steps = [re.fullmatch(step, line) for line in lines]
    assert None not in steps, stderr
    amounts = [(int(found[1]), float(found[2])) for found in steps if found]
    assert amounts == sorted(amounts)
    assert amounts[0][1] >= resumed
    assert amounts[-1] == (100, 360)
    assert lines[-1].endswith("done")


def kill_at(moment: float, delay: float, hub: FakeHub, home: Path) -> None:
    """Pull until `moment` bytes were sent, wait `delay` seconds, and kill. Files with a final name must be complete."""
    process = subprocess.Popen(
        command("pull", MODEL, "-q"), env=environment(hub, home), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while hub.sent < moment and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    _, stderr = process.communicate()
    assert (process.returncode, stderr) in ((-signal.SIGKILL, b""), (0, b""))
    blobs = [path for path in hub_cache(home).glob("*/blobs/*") if path.suffix != ".part"]
    assert [path for path in blobs if path.stat().st_size != SPLIT_BYTES] == []
    assert not list(hub_cache(home).glob("*/refs/main")) or len(blobs) == SPLITS


@pytest.mark.slow
def test_repeatedly_killed_pull_downloads_few_bytes_twice(repo: Repo, tmp_path: Path) -> None:
    chance, size = random.Random(1), SPLITS * SPLIT_BYTES
    moments = sorted(chance.choice((0, 1)) * chance.uniform(0, 1.1 * size) for _ in range(KILLS))
    with FakeHub({REPO: repo}, rate=4e6, cdn=True) as hub:
        for moment in moments:  # at 0 some have not started to download; the last may have finished
            kill_at(min(moment, size), chance.uniform(0, 0.2 if moment else 1.5), hub, tmp_path)
        hub.rate = 0
        done = qwenctl(hub, tmp_path, "pull", MODEL, "-q")
        assert (done.returncode, done.stderr) == (0, "")
    assert_whole(tmp_path, repo, *NAMES)
    print(f"{KILLS} kills: sent {hub.sent / size:.1%} of the size")
    assert 1 <= hub.sent / size <= 1.05


def test_one_of_four_processes_downloads_and_the_others_wait(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.rate = 3e6  # slow enough for all to start before the first ends
    with running_pull(hub, tmp_path) as first:
        holder = rf"another qwenctl \(pid {first.pid}, \d+ s\) is pulling this model"
        line, hint, code = failure(qwenctl(hub, tmp_path, "pull", MODEL, "--wait", "0"))
        assert re.fullmatch(holder, line)
        assert (hint, code) == ("wait, or `--wait 0` to stop now", 75)
        with ThreadPoolExecutor(3) as pool:
            others = list(pool.map(lambda _: qwenctl(hub, tmp_path, "pull", MODEL), range(3)))
        stdout, _ = first.communicate(timeout=60)
    assert first.returncode == 0
    assert [done.returncode for done in others] == [0, 0, 0]
    assert {done.stdout for done in others} == {stdout}
    assert [done.stderr for done in others if not re.match(rf"waiting: {holder}\n", done.stderr)] == []
    assert hub.sent == SPLITS * SPLIT_BYTES
    assert_whole(tmp_path, repo, *NAMES)


def test_complete_model_is_not_downloaded_again(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.rate = 0
    first, again = (qwenctl(hub, tmp_path, "pull", MODEL, "-q") for _ in range(2))
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    assert hub.sent == SPLITS * SPLIT_BYTES


def test_files_downloaded_by_hf_are_reused(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    blob = hub_cache(tmp_path) / "models--qwen--Toy-GGUF" / "blobs" / repo.files[NAMES[0]].sha256
    blob.parent.mkdir(parents=True)
    blob.write_bytes(repo.files[NAMES[0]].source.read_bytes())
    hub.rate = 0
    assert qwenctl(hub, tmp_path, "pull", MODEL).returncode == 0
    assert hub.sent == (SPLITS - 1) * SPLIT_BYTES
    assert_whole(tmp_path, repo, *NAMES)
