"""Models on this machine: list, show, verify, remove and chat by name, whichever tool downloaded them."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tests.support.fake_hub import FakeHub, Repo, serve_folder
from tests.support.gguf_files import converted
from tests.support.paths import DATA
from tests.support.pulling import command, environment, failure, hub_cache, qwenctl, snapshot
from tests.support.terminal import Terminal

GGUF, SOURCE = "unsloth/Qwen3.5-0.8B-GGUF", "Qwen/Qwen3.5-0.8B"
INFO: dict[str, Any] = {"cardData": {"license": "apache-2.0"}, "gguf": {"total": 12_000_000}}


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repo]:
    """The toy model as a repository of two quantizations with an mmproj file, and as a checkpoint."""
    folder = tmp_path_factory.mktemp("repo")
    converted(DATA / "toy", folder / "Toy-Q8_0.gguf", "Q8_0")
    converted(DATA / "toy", folder / "Toy-Q4_0.gguf", "Q4_0", vision=False)
    next(folder.glob("mmproj*")).rename(folder / "mmproj-F16.gguf")
    return {GGUF: serve_folder(folder, **INFO), SOURCE: serve_folder(DATA / "toy")}


@pytest.fixture(scope="module")
def filled(repos: dict[str, Repo], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with both quantizations pulled."""
    home = tmp_path_factory.mktemp("home")
    with FakeHub(repos, cdn=True) as hub:
        for quant in ("Q8_0", "Q4_0"):
            assert qwenctl(hub, home, "pull", f"{GGUF}:{quant}").returncode == 0
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Path:
    """A copy of that home that a test may change."""
    shutil.copytree(filled, tmp_path / "home", symlinks=True)
    return tmp_path / "home"


@pytest.fixture
def hub(repos: dict[str, Repo]) -> Iterator[FakeHub]:
    with FakeHub(repos, cdn=True) as hub:
        yield hub


NO_HUB = "http://127.0.0.1:9"  # no server there: these commands need no network


def rows(home: Path) -> list[dict[str, Any]]:
    done = qwenctl(NO_HUB, home, "ls", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def names(home: Path) -> list[str]:
    return [row["name"] for row in rows(home)]


# ------------------------------------------------------------------ ls and show


def test_ls_lists_pulled_models(filled: Path, repos: dict[str, Repo]) -> None:
    assert names(filled) == [f"{GGUF}:Q4_0", f"{GGUF}:Q8_0"]
    row = rows(filled)[1]
    assert row["path"] == str(snapshot(filled, repos[GGUF], GGUF) / "Toy-Q8_0.gguf")
    assert row["bytes"] == sum(repos[GGUF].files[name].size for name in ("Toy-Q8_0.gguf", "mmproj-F16.gguf"))
    lines = qwenctl(NO_HUB, filled, "ls").stdout.splitlines()
    assert lines[0].split() == ["model", "size", "commit", "where"]
    assert lines[-1] == "2 models, 22.8 MB"


def test_ls_without_models_suggests_pull(tmp_path: Path) -> None:
    done = qwenctl(NO_HUB, tmp_path, "ls")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "no local models\n  hint: qwenctl pull qwen3.5-35b-a3b\n"


def test_huggingface_hub_finds_pulled_files(filled: Path, repos: dict[str, Repo]) -> None:
    found = huggingface_hub.scan_cache_dir(hub_cache(filled))
    assert found.warnings == []
    (repo,) = found.repos
    assert repo.repo_id == GGUF
    assert {(revision.commit_hash, *revision.refs) for revision in repo.revisions} == {(repos[GGUF].commit, "main")}
    path = huggingface_hub.try_to_load_from_cache(GGUF, "Toy-Q8_0.gguf", cache_dir=hub_cache(filled))
    assert hashlib.sha256(Path(str(path)).read_bytes()).hexdigest() == repos[GGUF].files["Toy-Q8_0.gguf"].sha256


def test_ls_finds_models_downloaded_by_other_tools(repos: dict[str, Repo], tmp_path: Path) -> None:
    file = repos[GGUF].files["Toy-Q8_0.gguf"]
    folder = hub_cache(tmp_path) / "models--x--y"
    for path, target in (
        (folder / "snapshots" / "abc" / "Toy-Q8_0.gguf", folder / "blobs" / file.sha256),
        (folder / "snapshots" / "abc" / "other.gguf", folder / "blobs" / ("0" * 64)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(target, path.parent))
    shutil.copy(file.source, folder / "blobs" / file.sha256)
    (folder / "blobs" / ("0" * 64)).write_bytes(b"GGUF of another model")
    assert names(tmp_path) == ["x/y:Q8_0"]
    assert qwenctl(NO_HUB, tmp_path, "verify", "-q").returncode == 0


def test_ls_lists_locally_quantized_models(filled: Path, home: Path) -> None:
    made = home / "made.gguf"
    assert qwenctl(NO_HUB, home, "quantize", DATA / "toy", "--type", "Q4_K_M", "-o", made, "-q").returncode == 0
    assert names(home) == ["toy:Q4_K_M", *names(filled)]
    made.unlink()
    assert names(home) == names(filled)


def test_show_prints_model_metadata_and_hashes(filled: Path, repos: dict[str, Repo]) -> None:
    done = qwenctl(NO_HUB, filled, "show", "qwen3.5-0.8b:q8_0", "--json")
    facts = json.loads(done.stdout)
    assert (facts["repository"], facts["commit"], facts["license"]) == (GGUF, repos[GGUF].commit, "apache-2.0")
    assert (facts["architecture"], facts["context_length"], facts["recipe"]) == ("qwen35moe", 262_144, "Q8_0")
    template = (DATA / "toy" / "chat_template.jinja").read_bytes()
    assert facts["template_sha256"] == hashlib.sha256(template).hexdigest()
    assert {file["hash"] for file in facts["files"]} == {
        repos[GGUF].files[name].sha256 for name in ("Toy-Q8_0.gguf", "mmproj-F16.gguf")
    }
    text = qwenctl(NO_HUB, filled, "show", f"{GGUF}:Q8_0").stdout
    assert f"Toy-Q8_0.gguf  12.2 MB  {repos[GGUF].files['Toy-Q8_0.gguf'].sha256}" in text


@pytest.mark.parametrize(("argument", "name"), [("show", "qwen3.5-27b"), ("rm", "a/b:Q8_0"), ("verify", "nothing")])
def test_command_for_a_missing_model_is_refused(argument: str, name: str, filled: Path) -> None:
    line, hint, code = failure(qwenctl(NO_HUB, filled, argument, name))
    assert (line, code) == (f"{name} is not on this machine", 66)
    assert hint == f"available: {GGUF}:Q4_0, {GGUF}:Q8_0"


def test_show_with_an_ambiguous_name_is_refused(filled: Path) -> None:
    line, hint, code = failure(qwenctl(NO_HUB, filled, "show", GGUF))
    assert line == f"{GGUF} matches 2 models: {GGUF}:Q4_0, {GGUF}:Q8_0"
    assert (hint, code) == (f"qwenctl show {GGUF}:Q8_0", 2)


@pytest.mark.parametrize("other", ["0" * 40, "f" * 40])
def test_pull_takes_the_commit_of_main_and_show_needs_a_commit(other: str, home: Path, repos: dict[str, Repo]) -> None:
    new = snapshot(home, repos[GGUF], GGUF)
    shutil.copytree(new, new.with_name(other), symlinks=True)
    done = qwenctl(NO_HUB, home, "pull", f"{GGUF}:Q8_0", "--offline")
    assert done.stdout == f"{new}/Toy-Q8_0.gguf\n"
    line, _, code = failure(qwenctl(NO_HUB, home, "show", f"{GGUF}:Q8_0"))
    assert code == 2
    exact = line.split(": ", 1)[1].split(", ")
    assert exact == [f"{GGUF}@{commit[:12]}:Q8_0" for commit in (other, new.name)]
    commits = [json.loads(qwenctl(NO_HUB, home, "show", name, "--json").stdout)["commit"] for name in exact]
    assert commits == [other, new.name]


# ------------------------------------------------------------------ chat by name


@pytest.mark.parametrize("name", ["qwen3.5-0.8b:q8_0", f"hf.co/{GGUF}:Q8_0", "Toy-Q8_0"])
def test_chat_finds_a_local_model_by_name(name: str, filled: Path) -> None:
    done = qwenctl(NO_HUB, filled, "chat", "-hf", name, "--no-think", "--temp", "0", "What is the capital of France?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of France is Paris.\n", "")


def test_chat_with_an_ambiguous_name_is_refused(filled: Path) -> None:
    line, hint, code = failure(qwenctl(NO_HUB, filled, "chat", "-m", "qwen3.5-0.8b", "hi"))
    assert line == f"2 local models match qwen3.5-0.8b: {GGUF}:Q4_0, {GGUF}:Q8_0"
    assert (hint, code) == (f"-m {GGUF}:Q4_0", 2)


def test_chat_with_a_missing_model_suggests_pull(filled: Path) -> None:
    line, hint, code = failure(qwenctl(NO_HUB, filled, "chat", "-m", "qwen3.5-27b:Q4_K_M", "hi"))
    assert (line, code) == ("qwen3.5-27b:Q4_K_M is not on this machine", 66)
    assert hint.startswith("qwenctl pull qwen3.5-27b:Q4_K_M")


# ------------------------------------------------------------------ verify and repair


def blob(home: Path, repo: Repo, name: str) -> Path:
    return (snapshot(home, repo, GGUF) / name).resolve()


def test_flipped_bit_is_found_by_verify_and_repaired(home: Path, hub: FakeHub) -> None:
    repo, name = hub.repos[GGUF], "Toy-Q8_0.gguf"
    path = blob(home, repo, name)
    content = bytearray(path.read_bytes())
    content[5_000_000] ^= 4
    path.write_bytes(content)
    done = qwenctl(NO_HUB, home, "verify")
    assert f"damaged  {name}" in done.stdout
    error = done.stderr.split("qwenctl: error: ")[1]
    wrong, right = hashlib.sha256(content).hexdigest()[:12], repo.files[name].sha256[:12]
    repair = f"qwenctl pull {GGUF}:Q8_0 --repair"
    assert error == (
        f"{name}: sha256 is {wrong}.., expected {right}..\n"
        f"  hint: `{repair}` downloads it again; if this repeats, test RAM and disk\n"
    )
    assert done.returncode == 65
    assert qwenctl(hub, home, *repair.split()[1:]).returncode == 0
    assert hub.sent == repo.files[name].size
    assert qwenctl(NO_HUB, home, "verify", "-q").returncode == 0


def test_truncated_file_is_found_by_verify_and_completed_by_pull(home: Path, hub: FakeHub) -> None:
    path = blob(home, hub.repos[GGUF], "Toy-Q8_0.gguf")
    os.truncate(path, 5_000_000)
    line = "Toy-Q8_0.gguf ends at 5.00 MB of 12.2 MB"
    done = qwenctl(NO_HUB, home, "verify", "-q")
    repair = f"qwenctl pull {GGUF}:Q8_0 --repair"
    assert failure(done) == (line, f"`{repair}` continues it", 65)
    assert qwenctl(hub, home, "pull", f"{GGUF}:Q8_0").returncode == 0  # every pull checks the size
    assert qwenctl(NO_HUB, home, "verify", "-q").returncode == 0


def test_ctrl_c_stops_verify_in_the_middle_of_a_file(home: Path, repos: dict[str, Repo]) -> None:
    os.truncate(blob(home, repos[GGUF], "Toy-Q8_0.gguf"), 100_000_000_000)  # sparse; hashing it takes minutes
    with Terminal(command("verify"), home, **environment(NO_HUB, home)) as terminal:
        terminal.wait_for("of 100 GB")
        before = children_seconds()
        terminal.send("\x03")
        assert terminal.exit_code() == 130
    assert children_seconds() - before < 15  # hashing it all takes minutes; processor time does not depend on the load


def children_seconds() -> float:
    """Processor time, in seconds, of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_missing_file_is_found_by_verify_and_repaired(home: Path, hub: FakeHub) -> None:
    (snapshot(home, hub.repos[GGUF], GGUF) / "mmproj-F16.gguf").unlink()
    line, hint, code = failure(qwenctl(NO_HUB, home, "verify", f"{GGUF}:Q8_0", "-q"))
    assert line.startswith("mmproj-F16.gguf is missing in ")
    assert (hint, code) == (f"qwenctl pull {GGUF}:Q8_0 --repair", 66)
    assert qwenctl(hub, home, *hint.split()[1:]).returncode == 0
    assert hub.sent == 0
    assert qwenctl(NO_HUB, home, "verify", "-q").returncode == 0


# ------------------------------------------------------------------ rm and clean


def test_rm_leaves_files_that_another_quantization_needs(home: Path, hub: FakeHub) -> None:
    done = qwenctl(NO_HUB, home, "rm", f"{GGUF}:Q8_0", "--json")
    assert json.loads(done.stdout)["freed_bytes"] == hub.repos[GGUF].files["Toy-Q8_0.gguf"].size
    assert names(home) == [f"{GGUF}:Q4_0"]
    assert qwenctl(NO_HUB, home, "verify", "-q").returncode == 0
    assert qwenctl(NO_HUB, home, "rm", GGUF).returncode == 0
    assert names(home) == []
    assert [path for path in hub_cache(home).rglob("*") if path.is_file()] == []


def test_rm_removes_a_quantized_model_with_its_mmproj(home: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    made = tmp_path / "made" / "toy.gguf"
    assert qwenctl(NO_HUB, home, "quantize", DATA / "toy", "--type", "Q8_0", "-o", made, "-q").returncode == 0
    assert qwenctl(NO_HUB, home, "rm", "toy").returncode == 0
    assert list(made.parent.iterdir()) == []


def test_rm_asks_for_confirmation_on_a_terminal(home: Path, filled: Path) -> None:
    with Terminal(command("rm", f"{GGUF}:Q8_0"), home, **environment(NO_HUB, home)) as terminal:
        terminal.wait_for(f"remove {GGUF}:Q8_0")
        terminal.send("n\r")
        assert terminal.exit_code() == 0
    assert names(home) == names(filled)


def test_clean_removes_only_stale_downloads(home: Path, filled: Path) -> None:
    blobs = next(hub_cache(home).glob("models--*")) / "blobs"
    (blobs / f"{'1' * 64}.part").write_bytes(b"x" * 100_000)
    old, new = blobs / "2.incomplete", blobs / "3.incomplete"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    assert "removed" not in qwenctl(NO_HUB, home, "clean", "--dry-run").stderr
    done = qwenctl(NO_HUB, home, "clean")
    assert done.stderr.startswith("removed 2 leftovers: ")
    assert new.exists()
    assert not old.exists()
    assert names(home) == names(filled)
    assert qwenctl(NO_HUB, home, "verify", "-q").returncode == 0
