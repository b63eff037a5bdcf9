"""`qwenctl.lock.json`: what was pulled, exactly, beside the files; and pulling exactly that again.

It lists models. Each has its repository and commit, every file with its size and sha256, and for one that was quantized
while it arrived the recipe and the files that came out. The same list comes to the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwenctl import __version__
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.hf_cache import atomic_write
from qwenctl.hub.repository.listing import Listing, RemoteFile, check_paths
from qwenctl.hub.repository.model_name import check_revision

NAME = "qwenctl.lock.json"
_FORMAT = 1
_REPOSITORY, _SHA256, _COMMIT = r"[\w.-]+/[\w.-]+", "[0-9a-f]{64}", "[0-9a-f]{40}"


@dataclass(frozen=True)
class LockedFile:
    """A file; `path` is relative to the repository, or for an output its name."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class LockedModel:
    """A model. `quant` is the label in its repository; `recipe` is "" unless it was quantized from the files here."""

    repository: str
    commit: str
    quant: str
    files: tuple[LockedFile, ...]
    license: str = ""
    recipe: str = ""
    outputs: tuple[LockedFile, ...] = ()
    version: str = __version__

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells one model of a list from another."""
        return self.repository, self.commit, self.quant, self.recipe


def lock_model(listing: Listing, quant: str, paths: Iterable[tuple[RemoteFile, Path]]) -> LockedModel:
    """The entry for files that lie at these paths. The sha256 of those that git keeps is computed; they are small."""
    files = tuple(LockedFile(file.path, file.size, file.sha256 or sha256_of(path)) for file, path in paths)
    return LockedModel(listing.repository, listing.commit, quant, files, listing.license)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_to_lock(folder: Path, model: LockedModel) -> None:
    """Add a model to the lock file in `folder`, in the place of an older entry for the same. Raises OSError."""
    path = folder / NAME
    try:
        others = [one for one in read_lock(path) if one.key != model.key]
    except QwenctlError:  # none yet, or one that cannot be read
        others = []
    write_lock(path, [*others, model])


def write_lock(path: Path, models: Iterable[LockedModel]) -> None:
    """Write a lock file of these models; of none, remove it. Raises OSError."""
    entries = [asdict(one) for one in sorted(models, key=lambda one: one.key)]
    if entries:
        atomic_write(path, (json.dumps({"format": _FORMAT, "models": entries}, indent=1) + "\n").encode())
    else:
        path.unlink(missing_ok=True)


def read_lock(path: Path) -> list[LockedModel]:
    """The models of a lock file. Raises QwenctlError."""
    try:
        data = json.loads(path.read_bytes())
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']}")
        return [_model(entry) for entry in data["models"]]
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise QwenctlError(f"cannot read {path}: {reason}", f"a {NAME} next to a model", ExitCode.NO_INPUT) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise QwenctlError(
            f"{path} is not a lock file ({error})", f"a {NAME} next to a model", ExitCode.BAD_DATA
        ) from error


def _model(entry: dict[str, Any]) -> LockedModel:
    files, outputs = (tuple(map(_file, entry[name])) for name in ("files", "outputs"))
    for named in (files, outputs):
        check_paths(str(entry["repository"]), [RemoteFile(one.path, one.size, "") for one in named])
    if not files or bool(entry["recipe"]) != bool(outputs):
        raise ValueError("a model without files")
    if not re.fullmatch(_REPOSITORY, entry["repository"]) or not re.fullmatch(_COMMIT, check_revision(entry["commit"])):
        raise ValueError(f"{entry['repository']}@{entry['commit']}")
    texts = {name: str(entry[name]) for name in ("quant", "license", "recipe", "version")}
    return LockedModel(entry["repository"], entry["commit"], files=files, outputs=outputs, **texts)


def _file(entry: dict[str, Any]) -> LockedFile:
    if not re.fullmatch(_SHA256, entry["sha256"]):
        raise ValueError(f"sha256 {entry['sha256']!r}")
    return LockedFile(str(entry["path"]), int(entry["size"]), entry["sha256"])


def locked_files(model: LockedModel, listing: Listing) -> list[RemoteFile]:
    """The files of `model` in the listing of its commit. Raises QwenctlError if they are not the same."""
    found = []
    for locked in model.files:
        file = listing.file(locked.path)
        if file is None:
            raise _differs(model, f"{locked.path} is not there")
        if file.size != locked.size or (file.sha256 and file.sha256 != locked.sha256):
            raise _differs(
                model, f"{locked.path} is {file.sha256[:12]}.., but the lock file has {locked.sha256[:12]}.."
            )
        found.append(file)
    return found


def check_locked(model: LockedModel, paths: Iterable[Path]) -> None:
    """Raise QwenctlError if a file of `model` differs from what is locked; those that the Hub has no sha256 of."""
    for locked, path in zip(model.files, paths, strict=True):
        if path.stat().st_size < 1 << 26 and sha256_of(path) != locked.sha256:
            raise _differs(model, f"{locked.path} has different content")


def verify_local(model: LockedModel, folder: Path) -> Path:
    """The file to load, if `folder` has all that is locked: files of the repository, or what was made of them.

    Raises QwenctlError.
    """
    for locked in model.outputs or model.files:
        path = folder / locked.path
        if not path.is_file():
            raise QwenctlError(
                f"{locked.path} of {model.repository}@{model.commit[:12]} is not in {folder}",
                "pull it without --offline",
                ExitCode.NO_INPUT,
            )
        if path.stat().st_size != locked.size or sha256_of(path) != locked.sha256:
            raise _differs(model, f"{locked.path} has different content")
    return folder / (model.outputs or model.files)[0].path


def _differs(model: LockedModel, why: str) -> QwenctlError:
    where = f"{model.repository}@{model.commit[:12]}"
    return QwenctlError(
        f"{where} does not match the lock file: {why}",
        "pull without --locked to write a new lock file",
        ExitCode.BAD_DATA,
    )
