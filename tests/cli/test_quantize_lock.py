"""What `quantize` makes of a folder is listed with its hashes in the lock file beside it, and `verify` checks it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qwenctl.hub.local.lock_file import LOCK_NAME, LockedFile, LockedModel, add_to_lock, change_lock, read_lock
from tests.support.cli_runner import outcome, run

OTHER = LockedModel("owner/name", "c" * 40, "Q4_K_M", (LockedFile("a.gguf", 1, "0" * 64),))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def made(toy: Path, tmp_path: Path, state: Path) -> Path:
    """The toy as a Q8_0 file with its mmproj file and lock file beside it, in a folder of its own."""
    (tmp_path / "made").mkdir()
    add_to_lock(tmp_path / "made", OTHER)
    quantize(toy, tmp_path / "made" / "toy.gguf")
    assert (state / "qwenctl").is_dir()
    return tmp_path / "made"


def quantize(toy: Path, path: Path, *more: str) -> str:
    """Run the command that makes the file; what it says."""
    done = run("quantize", str(toy), "--type", "Q8_0", "-o", str(path), "-t", "2", *more)
    assert done.returncode == 0, done.stderr.decode()
    return done.stderr.decode()


def entries(folder: Path) -> list[LockedModel]:
    return [one for one in read_lock(folder / LOCK_NAME) if one != OTHER]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_lock_file_lists_what_was_made_and_keeps_other_entries(made: Path) -> None:
    [entry] = entries(made)
    assert OTHER in read_lock(made / LOCK_NAME)
    assert [file.path for file in entry.outputs] == ["toy.gguf", "mmproj-toy-F16.gguf"]
    assert (entry.repository, entry.commit, entry.recipe, entry.is_local) == ("toy", "", "Q8_0", True)


@pytest.mark.parametrize(
    ("place", "registry"),
    [("toy.gguf", "kept"), ("toy.gguf", "lost"), ("mmproj-toy-F16.gguf", "lost"), (".", "lost"), ("name", "kept")],
)
def test_verify_finds_a_flipped_byte_in_each_file(made: Path, state: Path, place: str, registry: str) -> None:
    name = "toy:Q8_0" if place == "name" else str(made / place)
    if registry == "lost":
        shutil.rmtree(state)
    assert run("verify", name).stdout.count(b"ok ") == 2
    for file in ("toy.gguf", "mmproj-toy-F16.gguf"):
        for at in (0, -1):
            flip(made / file, at)
            line, hint, code = outcome("verify", name, "-q")
            assert (line.startswith(f"{file}: sha256 is"), code) == (True, 65), line
            command = f"qwenctl quantize CHECKPOINT_FOLDER --type Q8_0 -o {made / 'toy.gguf'} --overwrite"
            assert hint.startswith(f"`{command}` makes it again")
            flip(made / file, at)
    (made / "mmproj-toy-F16.gguf").unlink()
    assert outcome("verify", name, "-q")[2] == 66


def test_verify_of_a_folder_names_a_listed_model_that_is_gone(made: Path) -> None:
    (made / "toy.gguf").unlink()
    assert outcome("verify", str(made), "-q")[::2] == (f"toy.gguf is missing in {made}", 66)


@pytest.mark.parametrize("lost", ["nothing", "state", "lock file"])
def test_same_command_ends_at_once_and_restores_what_was_lost(made: Path, toy: Path, state: Path, lost: str) -> None:
    before = (made / LOCK_NAME).read_bytes()
    if lost == "state":
        shutil.rmtree(state)
    if lost == "lock file":
        (made / LOCK_NAME).unlink()
        add_to_lock(made, OTHER)
    assert "is here already" in quantize(toy, made / "toy.gguf")
    assert (made / LOCK_NAME).read_bytes() == before
    assert "toy:Q8_0" in [one["name"] for one in json.loads(run("ls", "--json").stdout)]


def test_overwritten_file_has_one_entry_and_a_second_file_its_own(made: Path, toy: Path) -> None:
    quantize(toy, made / "toy.gguf", "--no-mtp", "--overwrite")
    quantize(toy, made / "second.gguf", "--overwrite")
    assert [(one.first_output, one.recipe) for one in entries(made)] == [
        ("second.gguf", "Q8_0"),
        ("toy.gguf", "Q8_0 --no-mtp"),
    ]
    assert run("verify", str(made), "-q").returncode == 0


def test_removed_model_leaves_the_lock_file(made: Path) -> None:
    assert run("rm", "toy:Q8_0", "--yes").returncode == 0
    assert read_lock(made / LOCK_NAME) == [OTHER]
    assert not (made / "toy.gguf").exists()


def test_local_entry_is_not_pulled_and_checked_offline(made: Path) -> None:
    lock = str(made / LOCK_NAME)
    line, hint, code = outcome("pull", "--locked", lock)
    assert (line, code) == ("toy.gguf was quantized from a folder (toy); no repository has it", 66)
    assert "--offline" in hint
    change_lock(made, lambda models: [one for one in models if one != OTHER])
    assert run("pull", "--locked", lock, "--offline", "-o", str(made)).stdout.decode() == f"{made / 'toy.gguf'}\n"
    flip(made / "toy.gguf", -1)
    assert outcome("pull", "--locked", lock, "--offline", "-o", str(made))[2] == 65
