"""The files of a model are checked against lock files and blob names: damage is found and described."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.errors import ExitCode
from qwenctl.hub.local.installed import InstalledModel
from qwenctl.hub.local.lock_file import LOCK_NAME, LockedFile, LockedModel, write_lock
from qwenctl.hub.local.verification import ExpectedFile, check_file, expected_files
from tests.support.cached_models import REPOSITORY, cached_model

PULL = "qwenctl pull owner/name:Q4_K_M"


def described(path: Path, data: bytes) -> ExpectedFile:
    return ExpectedFile(path.name, path, len(data), hashlib.sha256(data).hexdigest())


def check(expected: ExpectedFile) -> tuple[str, ExitCode] | None:
    error = check_file(expected, PULL, lambda _: None)
    assert error is None or PULL in error.hint
    return (error.message, error.code) if error else None


def test_expected_files_have_size_and_hash_of_the_lock_file(tmp_path: Path) -> None:
    model = cached_model(tmp_path, {"a.gguf": b"12345"})
    [found] = expected_files(model)
    assert (found.name, found.n_bytes, found.etag) == ("a.gguf", 5, hashlib.sha256(b"12345").hexdigest())


def test_file_that_only_the_lock_file_lists_is_expected(tmp_path: Path) -> None:
    model = cached_model(tmp_path, {"a.gguf": b"12345", "b.gguf": b"1"})
    found = expected_files(replace(model, files=model.files[:1]))
    assert [file.name for file in found] == ["a.gguf", "b.gguf"]


def test_expected_hash_without_a_lock_file_is_the_name_of_the_blob(tmp_path: Path) -> None:
    [found] = expected_files(cached_model(tmp_path, {"a.gguf": b"12345"}, locked=False))
    assert (found.n_bytes, found.etag) == (-1, hashlib.sha256(b"12345").hexdigest())


def test_model_quantized_here_is_expected_as_its_outputs(tmp_path: Path) -> None:
    (tmp_path / "made.gguf").write_bytes(b"1234")
    source, output = LockedFile("model.safetensors", 9, "1" * 64), LockedFile("made.gguf", 4, "2" * 64)
    write_lock(tmp_path / LOCK_NAME, [LockedModel(REPOSITORY, "c" * 40, "", (source,), "", "Q4_K_M", (output,))])
    [found] = expected_files(InstalledModel(REPOSITORY, "Q4_K_M", "c" * 40, (tmp_path / "made.gguf",), None))
    assert (found.name, found.n_bytes, found.etag) == ("made.gguf", 4, "2" * 64)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])  # the last has two chunks
def test_hash_of_40_digits_is_that_of_git_and_others_are_sha256(size: int, tmp_path: Path) -> None:
    data, path, read = b"x" * size, tmp_path / "a", list[int]()
    path.write_bytes(data)
    git = hashlib.sha1(f"blob {size}\0".encode() + data).hexdigest()  # noqa: S324 - git's hash
    for digest in (git, hashlib.sha256(data).hexdigest()):
        read.clear()
        assert check_file(ExpectedFile("a", path, size, digest), PULL, read.append) is None
        assert sum(read) == size
    assert check(ExpectedFile("a", path, size, "0" * 40)) == (
        f"a: git hash is {git[:12]}.., expected {'0' * 12}..",
        ExitCode.BAD_DATA,
    )


def test_right_file_passes_and_each_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"12345")
    expected = described(path, b"12345")
    assert check(expected) is None
    path.write_bytes(b"123")
    assert check(expected) == ("a.gguf ends at 3 B of 5 B", ExitCode.BAD_DATA)
    for damaged in (b"12355", b"123456"):
        path.write_bytes(damaged)
        actual = hashlib.sha256(damaged).hexdigest()[:12]
        assert check(expected) == (f"a.gguf: sha256 is {actual}.., expected {expected.etag[:12]}..", ExitCode.BAD_DATA)
    path.unlink()
    assert check(expected) == (f"a.gguf is missing in {tmp_path}", ExitCode.NO_INPUT)


def test_missing_split_is_named_by_its_number(tmp_path: Path) -> None:
    expected = described(tmp_path / "m-00002-of-00003.gguf", b"")
    assert check(expected) == ("split 2 of 3 is missing next to m-00001-of-00003.gguf", ExitCode.NO_INPUT)


def test_file_of_unknown_hash_passes_if_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"anything")
    assert check(ExpectedFile("a", tmp_path / "a", -1, "")) is None
