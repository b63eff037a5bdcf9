"""Pulls over an unreliable network: they survive temporary faults without downloading received bytes again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub, Repo
from tests.support.fake_hub_faults import Fault
from tests.support.pulling import REPO, assert_whole, one_file_repo, qwenctl

SIZE, SEGMENT = 20_000_000, 8 << 20
MODEL, NAME = f"{REPO}:Q4_K_M", "Toy-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return one_file_repo(tmp_path_factory.mktemp("repo"), NAME, SIZE)


@pytest.fixture
def hub(repo: Repo) -> Iterator[FakeHub]:
    with FakeHub({REPO: repo}, cdn=True) as hub:
        yield hub


SURVIVED = {
    "closed": [Fault("close", times=3, after=1_000_000)],
    "closed at once": [Fault("close", times=6)],
    "reset": [Fault("reset", times=3, after=1_000_000)],
    "stalled": [Fault("stall", times=2, after=3_000_000)],
    "503 three times": [Fault("status", times=3)],
    "503 for the place of the file": [Fault("status", times=3, on="HEAD")],
    "503 for the list": [Fault("status", times=2, on="api")],
    "429": [Fault("status", status=429, headers={"Retry-After": "2"})],
    "429 for the list": [Fault("status", status=429, headers={"Retry-After": "2"}, on="api")],
    "200 for a range": [Fault("ignore range", times=2)],
    "another range": [Fault("wrong range", times=2)],
    "416": [Fault("status", status=416)],
    "too short": [Fault("short", times=3)],
    "too long": [Fault("long", times=3)],
    "a link that has expired": [Fault("status", status=403)],
}


@pytest.mark.parametrize("faults", SURVIVED.values(), ids=SURVIVED)
def test_pull_survives_a_fault(faults: list[Fault], hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.break_with(*faults)
    done = qwenctl(hub, tmp_path, "pull", MODEL)
    assert done.returncode == 0, done.stderr
    assert all(fault.times == 0 for fault in faults)
    assert_whole(tmp_path, repo, NAME)
    assert hub.leaked == []


def test_slow_connection_is_replaced_by_a_new_one(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.break_with(Fault("drip", after=1_000_000))
    done = qwenctl(hub, tmp_path, "pull", MODEL)
    assert done.returncode == 0, done.stderr
    begun = {int(asked.removeprefix("bytes=").split("-")[0]) for _, _, asked in hub.requests if asked}
    again = begun - set(range(0, SIZE, SEGMENT))
    assert any(
        1_000_000 <= start % SEGMENT < SEGMENT // 2 for start in again
    )  # most of the segment is downloaded at full speed
    assert hub.sent < 1.01 * SIZE
    assert_whole(tmp_path, repo, NAME)


def test_broken_connection_loses_no_received_bytes(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.break_with(Fault("reset", times=8, after=2_000_000))
    assert qwenctl(hub, tmp_path, "pull", MODEL).returncode == 0
    assert hub.sent < 1.05 * SIZE
