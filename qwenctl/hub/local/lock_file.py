"""`qwenctl.lock.json`: a record of exactly what was pulled, stored next to the files, to pull exactly that again.

`LockedModel`s come in and go out. The file lists models, each with its repository and commit, and every file with its
size and SHA-256. A model that was quantized during the download also has its recipe and its output files. The same
list is written as the same bytes on every machine. Processes change it one after another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantize.file_system import file_sha256, locked_folder, replace_files
from quantize.foreign_json import read_json_object
from qwenctl import __version__
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.hf_cache import replace_if_changed
from qwenctl.hub.repository.listing import Listing, RemoteFile, check_paths
from qwenctl.hub.repository.model_name import check_revision

LOCK_NAME = "qwenctl.lock.json"
_FORMAT = 1  # version of the file format
_REPOSITORY, _SHA256, _COMMIT = r"[\w.-]+/[\w.-]+", "[0-9a-f]{64}", "[0-9a-f]{40}"


@dataclass(frozen=True)
class LockedFile:
    """A file of `size` bytes; `path` is relative to the repository, or just the file name for an output."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class LockedModel:
    """A model. `quant` is its label in the repository; `recipe` is "" unless it was quantized from `files`."""

    repository: str
    commit: str
    quant: str
    files: tuple[LockedFile, ...]
    license: str = ""
    recipe: str = ""
    outputs: tuple[LockedFile, ...] = ()
    version: str = __version__  # of the program that wrote the entry

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Identifies a model in the list."""
        return self.repository, self.commit, self.quant, self.recipe


def make_lock_entry(listing: Listing, quant: str, paths: Iterable[tuple[RemoteFile, Path]]) -> LockedModel:
    """Build the entry for files at these paths.

    The Hub has no SHA-256 for files stored in git; it is computed, since they are small. Raises OSError.
    """
    files = tuple(LockedFile(file.path, file.size, file.sha256 or file_sha256(path)) for file, path in paths)
    return LockedModel(listing.repository, listing.commit, quant, files, listing.license)


def add_to_lock(folder: Path, model: LockedModel) -> None:
    """Add a model to the lock file in `folder`, replacing an older entry with the same key. Raises OSError.

    A file of that name that is no lock file, or one of another version, is kept beside it under another name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    with locked_folder(folder):
        try:
            models = read_lock(path)
        except QwenctlError:
            models = []
            if path.exists() or path.is_symlink():
                replace_files([(path, _unused_name(path))])
        write_lock(path, [*(other for other in models if other.key != model.key), model])


def change_lock(folder: Path, change: Callable[[list[LockedModel]], list[LockedModel]]) -> None:
    """Replace the models of the lock file in `folder` by what `change` makes of them; without models it is deleted.

    Does nothing if it cannot be read. Raises OSError.
    """
    path = folder / LOCK_NAME
    if not path.is_file():
        return
    with locked_folder(folder):
        try:
            models = read_lock(path)
        except QwenctlError:
            return
        write_lock(path, change(models))


def _unused_name(path: Path) -> Path:
    """`path` with `.old` or `.oldN` at its end, whichever does not exist."""
    names = (path.with_name(f"{path.name}.old{number or ''}") for number in range(1000))
    return next(name for name in names if not name.exists() and not name.is_symlink())


def write_lock(path: Path, models: Iterable[LockedModel]) -> None:
    """Write a lock file with these models, or delete it if there are none. Raises OSError.

    Others may have changed it since it was read: `add_to_lock` and `change_lock` keep them out.
    """
    # Sorted by key, so that the bytes do not depend on the order of the pulls.
    entries = [asdict(model) for model in sorted(models, key=lambda model: model.key)]
    if entries:
        replace_if_changed(path, (json.dumps({"format": _FORMAT, "models": entries}, indent=1) + "\n").encode())
    else:
        path.unlink(missing_ok=True)


def read_lock(path: Path) -> list[LockedModel]:
    """Read and validate the models of a lock file. Raises QwenctlError."""
    try:
        # Everything is checked while parsing: a lock file may come from somebody else.
        data = read_json_object(path)
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']}")
        return [_parse_model(entry) for entry in data["models"]]
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise QwenctlError(
            f"cannot read {path}: {reason}", f"a {LOCK_NAME} next to a model", ExitCode.NO_INPUT
        ) from error
    except (QwenctlError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, QwenctlError) and error.code != ExitCode.USAGE:
            raise
        reason = " ".join(str(error).split())[:200]
        raise QwenctlError(
            f"{path} is not a lock file ({reason})", f"a {LOCK_NAME} next to a model", ExitCode.BAD_DATA
        ) from error


def _parse_model(entry: dict[str, Any]) -> LockedModel:
    """Parse and validate an entry, because its paths and names are used for requests and files here."""
    files, outputs = (tuple(map(_parse_file, entry[name])) for name in ("files", "outputs"))
    for entries in (files, outputs):
        check_paths(str(entry["repository"]), [RemoteFile(file.path, file.size, "") for file in entries])
    if not files or bool(entry["recipe"]) != bool(outputs):
        raise ValueError("a model without files")
    if not re.fullmatch(_REPOSITORY, entry["repository"]) or not re.fullmatch(_COMMIT, check_revision(entry["commit"])):
        raise ValueError(f"{entry['repository']}@{entry['commit']}")
    texts = {name: str(entry[name]) for name in ("quant", "license", "recipe", "version")}
    return LockedModel(entry["repository"], entry["commit"], files=files, outputs=outputs, **texts)


def _parse_file(entry: dict[str, Any]) -> LockedFile:
    if not re.fullmatch(_SHA256, entry["sha256"]):
        raise ValueError(f"sha256 {entry['sha256']!r}")
    return LockedFile(str(entry["path"]), int(entry["size"]), entry["sha256"])


def find_locked_files(model: LockedModel, listing: Listing) -> list[RemoteFile]:
    """Find the files of `model` in the listing of its commit. Raises QwenctlError if they differ."""
    files = []
    for locked in model.files:
        file = listing.find_file(locked.path)
        if file is None:
            raise _mismatch_error(model, f"{locked.path} is not there")
        if file.size != locked.size or (file.sha256 and file.sha256 != locked.sha256):
            raise _mismatch_error(
                model, f"{locked.path} is {file.sha256[:12]}.., but the lock file has {locked.sha256[:12]}.."
            )
        files.append(file)
    return files


def check_locked(model: LockedModel, paths: Iterable[Path]) -> None:
    """Raise QwenctlError if a small file of `model` differs from the lock.

    Large files are skipped: the Hub has their SHA-256, which was compared before the download.
    """
    for locked, path in zip(model.files, paths, strict=True):
        if path.stat().st_size < 1 << 26 and file_sha256(path) != locked.sha256:
            raise _mismatch_error(model, f"{locked.path} has different content")


def verify_local(model: LockedModel, folder: Path) -> Path:
    """Verify that `folder` has all locked files (the outputs, if the model was quantized) and return the one to load.

    Raises QwenctlError if a file is missing or differs.
    """
    for locked in model.outputs or model.files:
        path = folder / locked.path
        if not path.is_file():
            raise QwenctlError(
                f"{locked.path} of {model.repository}@{model.commit[:12]} is not in {folder}",
                "pull it without --offline",
                ExitCode.NO_INPUT,
            )
        if path.stat().st_size != locked.size or file_sha256(path) != locked.sha256:
            raise _mismatch_error(model, f"{locked.path} has different content")
    return folder / (model.outputs or model.files)[0].path


def _mismatch_error(model: LockedModel, reason: str) -> QwenctlError:
    name = f"{model.repository}@{model.commit[:12]}"
    return QwenctlError(
        f"{name} does not match the lock file: {reason}",
        "pull without --locked to write a new lock file",
        ExitCode.BAD_DATA,
    )
