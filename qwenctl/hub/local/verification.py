"""What the files of a model here should be: size and hash, from the cache's own names and from lock files.

An `InstalledModel` comes in; an `ExpectedFile` for each file goes out, and after reading it all, what is wrong with
one.
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
from qwenctl.hub.local.lock_file import NAME, LockedFile, read_lock

_PIECE = 1 << 20


@dataclass(frozen=True)
class ExpectedFile:
    """A file of a model. `n_bytes` is -1 and `etag` "" where nobody knows; a hash of 40 digits is git's."""

    name: str
    path: Path
    n_bytes: int
    etag: str


def expected_files(model: InstalledModel) -> list[ExpectedFile]:
    """All files of a model, those too that its lock file lists and that are not there."""
    locked = _locked(model)
    found = [_expected(path, locked.pop(_name(model, path), None)) for path in model.files]
    base = _base(model)
    return found + [ExpectedFile(one.path, base / one.path, one.size, one.sha256) for one in locked.values()]


def hash_file(expected: ExpectedFile, follow: Callable[[int], None]) -> str:
    """The hash of what is there, of the kind that is expected; `follow` hears how many bytes were read."""
    if len(expected.etag) == 40:
        start = f"blob {expected.path.stat().st_size}\0".encode()
        digest = hashlib.sha1(start, usedforsecurity=False)
    else:
        digest = hashlib.sha256()
    with expected.path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            follow(len(piece))
    return digest.hexdigest()


def check_file(expected: ExpectedFile, pull: str, follow: Callable[[int], None]) -> QwenctlError | None:
    """What is wrong with a file; None if nothing is. `pull` is the command that mends it."""
    if not expected.path.exists():
        return QwenctlError(_missing(expected), pull, ExitCode.NO_INPUT)
    there = expected.path.stat().st_size
    if 0 <= there < expected.n_bytes:
        line = f"{expected.name} ends at {format_bytes(there)} of {format_bytes(expected.n_bytes)}"
        return QwenctlError(line, f"`{pull}` continues it", ExitCode.BAD_DATA)
    found = hash_file(expected, follow)
    if expected.etag in ("", found):
        return None
    kind = "sha256" if len(expected.etag) == 64 else "git hash"
    line = f"{expected.name}: {kind} is {found[:12]}.., expected {expected.etag[:12]}.."
    return QwenctlError(line, f"`{pull}` downloads it again; if this repeats, test RAM and disk", ExitCode.BAD_DATA)


def _missing(expected: ExpectedFile) -> str:
    """That a file is not there, in words."""
    split = re.search(r"-(\d{5})-of-(\d{5})\.gguf$", expected.name)
    if not split or split[1] == "00001":
        return f"{expected.name} is missing in {expected.path.parent}"
    first = f"{PurePosixPath(expected.name).name[: -len(split[0])]}-00001-of-{split[2]}.gguf"
    return f"split {int(split[1])} of {int(split[2])} is missing next to {first}"


def _base(model: InstalledModel) -> Path:
    """The folder that the names in the lock file start from."""
    return model.cache.snapshot(model.commit) if model.cache else model.files[0].parent


def _name(model: InstalledModel, path: Path) -> str:
    return path.relative_to(_base(model)).as_posix()


def _locked(model: InstalledModel) -> dict[str, LockedFile]:
    """The entries of the lock file beside a model that are about this one."""
    try:
        models = read_lock(_base(model) / NAME)
    except QwenctlError:
        return {}
    first = _name(model, model.files[0])
    return {
        one.path: one
        for entry in models
        for files in ((entry.outputs if model.cache is None else entry.files),)
        if first in _names(files)
        for one in files
    }


def _names(files: tuple[LockedFile, ...]) -> list[str]:
    return [file.path for file in files]


def _expected(path: Path, locked: LockedFile | None) -> ExpectedFile:
    """A cache names its blobs by their hash; a lock file knows the size too."""
    if locked:
        return ExpectedFile(locked.path, path, locked.size, locked.sha256)
    blob = Path(os.readlink(path)).name if path.is_symlink() else ""
    return ExpectedFile(path.name, path, -1, blob if re.fullmatch("[0-9a-f]{40}([0-9a-f]{24})?", blob) else "")
