"""`pull --quantize`: conversion during a download gives the files of a local conversion, in bounded disk space."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import checkpoints
from tests.support.fake_hub import FakeHub, Repo, serve_folder
from tests.support.fake_hub_faults import Fault
from tests.support.gguf_files import converted
from tests.support.pulling import command, environment, failure, qwenctl
from tests.support.waiting import until

REPO = "Qwen/Toy"
SHARDS = 8


def as_cached(folder: Path, name: str) -> tuple[Path, Repo]:
    """Move the checkpoint to where a Hub cache would have the repository `name`; return its path and the repository."""
    repo = serve_folder(folder)
    cached = folder.parent / f"models--{name.replace('/', '--')}" / "snapshots" / repo.commit
    cached.parent.mkdir(parents=True)
    folder.rename(cached)
    return cached, serve_folder(cached)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Repo]:
    """The toy model in several shards, and its repository."""
    settings, arrays = checkpoints.toy()
    folder = checkpoints.save(tmp_path_factory.mktemp("source") / "toy", settings, arrays, shards=SHARDS)
    more = folder / "additional_chat_templates"  # in a folder of their own
    more.mkdir()
    (more / "tool_use.jinja").write_text("{{ messages[0].content }}")
    return as_cached(folder, REPO)


@pytest.fixture(scope="module")
def clean(source: tuple[Path, Repo], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """SHA-256 by name of the files that a conversion of the whole checkpoint writes."""
    version = subprocess.run(command("--version"), capture_output=True, text=True, check=True).stdout.split()[1]
    plan = converted(source[0], tmp_path_factory.mktemp("clean") / "toy.gguf", "Q8_0", tool_version=version)
    return {file.path.name: hash_of(file.path) for file in plan.files}


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def hub(source: tuple[Path, Repo]) -> Iterator[FakeHub]:
    with FakeHub({REPO: source[1]}, cdn=True) as hub:
        yield hub


ARGUMENTS = ("pull", REPO, "--quantize", "q8_0", "--spool", "12MB", "-o", "toy.gguf")


def run(hub: FakeHub, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*ARGUMENTS, *more), cwd=folder, env=environment(hub, folder / ".home"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def assert_made(folder: Path, clean: dict[str, str]) -> None:
    """The files are those of `clean`, and only the lock file is left besides them."""
    left = {path.name for path in folder.iterdir()} - {".home"}
    assert left == {*clean, "qwenctl.lock.json"}
    assert {name: hash_of(folder / name) for name in clean} == clean


def test_streamed_output_equals_conversion_of_the_whole_checkpoint(
    hub: FakeHub, clean: dict[str, str], tmp_path: Path
) -> None:
    done = run(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(clean)
    assert_made(tmp_path, clean)
    assert hub.leaked == []


def test_quantize_accepts_a_repository_name(hub: FakeHub, clean: dict[str, str], tmp_path: Path) -> None:
    done = qwenctl(hub, tmp_path / ".home", "quantize", REPO, "--type", "Q8_0", "-o", tmp_path / "toy.gguf", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert_made(tmp_path, clean)


def test_lock_file_lists_downloaded_and_written_files(
    hub: FakeHub, source: tuple[Path, Repo], clean: dict[str, str], tmp_path: Path
) -> None:
    run(hub, tmp_path)
    (model,) = json.loads((tmp_path / "qwenctl.lock.json").read_text())["models"]
    assert (model["repository"], model["commit"], model["recipe"]) == (REPO, source[1].commit, "Q8_0")
    assert {file["path"]: file["sha256"] for file in model["outputs"]} == clean
    locked = {file["path"]: file["sha256"] for file in model["files"]}
    assert locked == {path: hash_of(source[0] / path) for path in locked}
    assert len([path for path in locked if path.endswith(".safetensors")]) == SHARDS


def test_dry_run_reports_disk_use_and_leaves_no_files(hub: FakeHub, tmp_path: Path) -> None:
    plan = json.loads(run(hub, tmp_path, "--dry-run", "--json").stdout)
    assert plan["spool_bytes"] == 12_000_000
    assert plan["usual_bytes"] > plan["source_bytes"] + 2 * plan["bytes"]
    assert {path.name for path in tmp_path.iterdir()} <= {".home"}
    text = run(hub, tmp_path, "--dry-run").stdout
    assert re.search(r"^spool: up to 12\.0 MB, so 2\d\.\d MB of disk at most$", text, re.MULTILINE)


def test_too_small_spool_is_refused_with_a_sufficient_size(hub: FakeHub, tmp_path: Path) -> None:
    line, hint, code = failure(run(hub, tmp_path, "--spool", "1MB"))
    found = re.fullmatch(r"a spool of 1\.00 MB is too small: shards needed together have (\S+) MB", line)
    assert found
    assert (code, re.sub(r"\d+", "N", hint)) == (2, "--spool NMB")
    done = run(hub, tmp_path, "--spool", hint.split()[1])
    assert done.returncode == 0, done.stderr


def test_permanently_damaged_shard_stops_the_conversion_which_can_resume(
    hub: FakeHub, source: tuple[Path, Repo], clean: dict[str, str], tmp_path: Path
) -> None:
    shard = sorted(path for path in source[1].files if path.endswith(".safetensors"))[5]
    hub.break_with(Fault("flip", path=shard, times=1000, after=200_000))
    line, _, code = failure(run(hub, tmp_path))
    assert line.startswith(f"{shard}: sha256 is ")
    assert code == 65
    assert not (tmp_path / "toy.gguf").exists()
    hub.break_with()
    before = hub.sent
    done = run(hub, tmp_path, "--json")
    assert json.loads(done.stdout)["resumed_bytes"] > 0
    assert hub.sent - before < sum(file.size for file in source[1].files.values()) * 0.8
    assert_made(tmp_path, clean)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_the_conversion_and_reports_the_saved_bytes(
    number: signal.Signals,
    code: int,
    hub: FakeHub,
    source: tuple[Path, Repo],
    clean: dict[str, str],
    tmp_path: Path,
) -> None:
    hub.rate = 1_000_000
    process = subprocess.Popen(
        command(*ARGUMENTS), cwd=tmp_path, env=environment(hub, tmp_path / ".home"), stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / "toy.gguf.journal"
    until(lambda: journal.exists() and re.search(r"^\d+ \d+ #", journal.read_text(), re.MULTILINE) is not None)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert hub.sent < 0.8 * sum(file.size for file in source[1].files.values())
    assert process.returncode == code
    saved = r"qwenctl: error: stopped; \S+ [kM]B of 14\.0 MB are saved in toy\.gguf\.part"
    assert re.search(rf"^{saved}\n  hint: the same command resumes from there\n\Z", stderr, re.MULTILINE)
    hub.rate = 0
    assert run(hub, tmp_path).returncode == 0
    assert_made(tmp_path, clean)


def test_existing_output_is_not_replaced(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "toy.gguf").write_text("precious")
    line, _, code = failure(run(hub, tmp_path))
    assert (line, code) == ("toy.gguf already exists", 73)
    assert {path.name for path in tmp_path.iterdir()} - {".home"} == {"toy.gguf"}


def test_repository_without_config_is_refused(hub: FakeHub, source: tuple[Path, Repo], tmp_path: Path) -> None:
    files = {path: file for path, file in source[1].files.items() if path != "config.json"}
    hub.repos[REPO] = Repo(files, source[1].commit, {})
    line, hint, code = failure(run(hub, tmp_path))
    assert line == f"{REPO} is not a checkpoint: it has no config.json or no safetensors"
    assert (hint, code) == (f"qwenctl ls {REPO}", 65)
