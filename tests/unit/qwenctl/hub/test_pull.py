"""What a pull will do, and the pull of what is here already, which needs no network."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.paths import nearest_existing
from qwenctl.hub.download.partial_file import open_partial_file
from qwenctl.hub.local.hf_cache import RepoCache
from qwenctl.hub.pull import PullEvents, PullOptions, check_disk_space, plan_pull, pull_files
from qwenctl.hub.repository.listing import Listing, RemoteFile
from tests.support.cached_models import COMMIT, REPOSITORY, cached_model

HERE = RemoteFile("here.gguf", 5, "", hashlib.sha256(b"12345").hexdigest())
MISSING = RemoteFile("missing.gguf", 1000, "", "f" * 64)
LISTING = Listing(REPOSITORY, "main", COMMIT, (HERE, MISSING))
SILENT = PullEvents(lambda _: None, lambda _: None, lambda _: None)


@pytest.fixture
def cache(tmp_path: Path) -> RepoCache:
    """A cache that has one of two files."""
    found = cached_model(tmp_path, {"here.gguf": b"12345"}).cache
    assert found is not None
    return found


def test_plan_downloads_only_what_is_missing_and_identical_files_once(cache: RepoCache) -> None:
    copy = replace(MISSING, path="copy.gguf")
    plan = plan_pull(LISTING, "Q4_K_M", [HERE, MISSING, copy], cache)
    assert [file.sha256 for file in plan.missing] == [MISSING.sha256]
    assert (plan.n_bytes, plan.needed_bytes, len(plan.targets)) == (2005, 1000, 1)
    assert plan.first_path == cache.snapshot_folder(COMMIT) / "here.gguf"


def test_plan_counts_what_an_earlier_pull_has_downloaded(cache: RepoCache) -> None:
    part = open_partial_file(cache.part_path(MISSING), MISSING.size)
    part.write(0, bytes(300))
    part.close()
    plan = plan_pull(LISTING, "Q4_K_M", [MISSING], cache)
    assert (plan.resumed_bytes, plan.needed_bytes) == (300, 700)


def test_damaged_file_of_the_right_length_is_missing_only_if_verified(cache: RepoCache) -> None:
    cache.blob_path(HERE).write_bytes(b"12346")
    assert plan_pull(LISTING, "Q4_K_M", [HERE], cache).missing == ()
    assert plan_pull(LISTING, "Q4_K_M", [HERE], cache, verify=True).missing == (HERE,)


def test_pull_of_what_is_here_writes_nothing(cache: RepoCache) -> None:
    before = {path: path.lstat().st_mtime_ns for path in cache.root.rglob("*")}
    plan = pull_files(replace(LISTING, files=(HERE,)), "Q4_K_M", [HERE], cache, PullOptions(), SILENT)
    assert plan.missing == ()
    assert {path: path.lstat().st_mtime_ns for path in cache.root.rglob("*")} == before


def test_repair_of_what_is_right_announces_the_bytes_and_downloads_nothing(cache: RepoCache) -> None:
    notes: list[str] = []
    events = replace(SILENT, notify=notes.append)
    plan = pull_files(replace(LISTING, files=(HERE,)), "Q4_K_M", [HERE], cache, PullOptions(repair=True), events)
    assert (plan.missing, notes) == ((), ["hashing what is here: 5 B"])


def test_pull_that_cannot_fit_on_the_disk_is_refused_with_what_would_help(cache: RepoCache) -> None:
    plan = plan_pull(LISTING, "Q4_K_M", [HERE, MISSING], cache)
    check_disk_space(plan, 0)
    huge = replace(plan, missing=(replace(MISSING, size=1 << 60),))
    with pytest.raises(QwenctlError, match=r"needs .*short\)") as caught:
        check_disk_space(huge, 5 * 10**9)
    assert caught.value.code == ExitCode.IO
    assert caught.value.hint.endswith("`qwenctl clean` frees 5.00 GB")


def test_nearest_folder_that_exists_is_found_above_one_that_does_not(tmp_path: Path) -> None:
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert nearest_existing(tmp_path) == tmp_path
