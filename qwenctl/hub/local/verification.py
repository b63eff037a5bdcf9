"""Verify the files of an installed model against the sizes and hashes in lock files and in the cache's blob names.

An `InstalledModel` comes in; an `ExpectedFile` for each of its files goes out, and, after reading a file, an error if
it is wrong.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quantize.formatting import format_bytes
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.installed import InstalledModel
from qwenctl.hub.local.lock_file import LOCK_NAME, LockedFile, LockedModel, read_lock
from qwenctl.hub.repository.listing import git_digest, hash_content


@dataclass(frozen=True)
class ExpectedFile:
    """A file of a model. `n_bytes` is -1 and `etag` "" if unknown; a hash of 40 digits is git's SHA-1."""

    name: str
    path: Path
    n_bytes: int
    etag: str


def expected_files(model: InstalledModel) -> list[ExpectedFile]:
    """All files of a model, including those that its lock file lists but that do not exist."""
    locked = _locked_entries(model)
    present = [_expected_file(path, locked.pop(_relative_name(model, path), None)) for path in model.files]
    base = _base_folder(model)
    return present + [ExpectedFile(file.path, base / file.path, file.size, file.sha256) for file in locked.values()]


def check_file(
    expected: ExpectedFile, repair: str, on_read: Callable[[int], None], *, made_here: bool = False
) -> QwenctlError | None:
    """Check a file; returns the error, or None if the file is right.

    The command `repair` downloads it again, or makes it again if it was `made_here`.
    """
    again = "makes it again" if made_here else "downloads it again"
    if not expected.path.exists():
        return QwenctlError(_describe_missing(expected), repair, ExitCode.NO_INPUT)
    size = expected.path.stat().st_size
    if 0 <= size < expected.n_bytes:
        line = f"{expected.name} ends at {format_bytes(size)} of {format_bytes(expected.n_bytes)}"
        return QwenctlError(line, f"`{repair}` {again if made_here else 'continues it'}", ExitCode.BAD_DATA)
    # A file that is too long is hashed as well: the hash shows that it is wrong.
    digest = git_digest(size) if len(expected.etag) == 40 else hashlib.sha256()
    actual = hash_content(expected.path, digest, on_read)
    if expected.etag in ("", actual):
        return None
    hash_name = "sha256" if len(expected.etag) == 64 else "git hash"
    line = f"{expected.name}: {hash_name} is {actual[:12]}.., expected {expected.etag[:12]}.."
    return QwenctlError(line, f"`{repair}` {again}; if this repeats, test RAM and disk", ExitCode.BAD_DATA)


def _describe_missing(expected: ExpectedFile) -> str:
    """The message for a file that does not exist."""
    split = re.search(r"-(\d{5})-of-(\d{5})\.gguf$", expected.name)
    if not split or split[1] == "00001":
        return f"{expected.name} is missing in {expected.path.parent}"
    first = f"{PurePosixPath(expected.name).name[: -len(split[0])]}-00001-of-{split[2]}.gguf"
    return f"split {int(split[1])} of {int(split[2])} is missing next to {first}"


def _base_folder(model: InstalledModel) -> Path:
    """The folder that the paths in the lock file are relative to."""
    return model.cache.snapshot_folder(model.commit) if model.cache else model.files[0].parent


def _relative_name(model: InstalledModel, path: Path) -> str:
    """The path of a file as it is in the lock file."""
    return path.relative_to(_base_folder(model)).as_posix()


def _locked_entries(model: InstalledModel) -> dict[str, LockedFile]:
    """The lock file entries of this model's files, by path; the lock file may cover several models."""
    found = [entry.outputs if model.cache is None else entry.files for entry in find_lock_entries(model)]
    return {file.path: file for files in found for file in files}


def find_lock_entries(model: InstalledModel) -> list[LockedModel]:
    """The entries of the lock file beside a model that list its first file; none if there is no such file."""
    try:
        models = read_lock(_base_folder(model) / LOCK_NAME)
    except QwenctlError:
        return []
    # A model quantized here is among an entry's outputs, a pulled model among its files. The first file identifies it.
    first = _relative_name(model, model.files[0])
    return [one for one in models if first in _paths(one.outputs if model.cache is None else one.files)]


def _paths(files: tuple[LockedFile, ...]) -> list[str]:
    return [file.path for file in files]


def _expected_file(path: Path, locked: LockedFile | None) -> ExpectedFile:
    """Take size and hash from the lock file, or else only the hash, from the name of the cache's blob."""
    if locked:
        return ExpectedFile(locked.path, path, locked.size, locked.sha256)
    blob = Path(os.readlink(path)).name if path.is_symlink() else ""
    return ExpectedFile(path.name, path, -1, blob if re.fullmatch("[0-9a-f]{40}([0-9a-f]{24})?", blob) else "")
