"""`qwenctl.lock.json`: a record of exactly what was pulled, stored next to the files, to pull exactly that again.

`LockedModel`s come in and go out. The file lists models, each with its repository and commit, and every file with its
size and SHA-256. A model that was quantized during the download also has its recipe and its output files. The same
list is written as the same bytes on every machine. Processes change it one after another.

What was quantized from a folder is listed apart from that, under "local": nothing says where its weights can be had, so
it can be checked, but not pulled. Older versions do not look there, and read the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
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
    """A model. `quant` is its label in the repository; `recipe` is "" unless it was quantized from `files`.

    One that was quantized from a folder has no `files`, and the `fingerprint` of its plan; `repository` may be just the
    folder's name, and `commit` "".
    """

    repository: str
    commit: str
    quant: str
    files: tuple[LockedFile, ...]
    license: str = ""
    recipe: str = ""
    outputs: tuple[LockedFile, ...] = ()
    version: str = __version__  # of the program that wrote the entry
    fingerprint: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Identifies a model in the list, with its first output if it has any."""
        return self.repository, self.commit, self.quant, self.recipe

    @property
    def first_output(self) -> str:
        """The file to load of a model that was quantized; "" for others."""
        return self.outputs[0].path if self.outputs else ""

    @property
    def is_local(self) -> bool:
        """Whether it was quantized from a folder, so that it cannot be pulled."""
        return not self.files

    @property
    def title(self) -> str:
        """Its repository and commit, as far as they are known, for messages."""
        return f"{self.repository}@{self.commit[:12]}" if self.commit else self.repository


def make_lock_entry(listing: Listing, quant: str, paths: Iterable[tuple[RemoteFile, Path]]) -> LockedModel:
    """Build the entry for files at these paths.

    The Hub has no SHA-256 for files stored in git; it is computed, since they are small. Raises OSError.
    """
    files = tuple(LockedFile(file.path, file.size, file.sha256 or file_sha256(path)) for file, path in paths)
    return LockedModel(listing.repository, listing.commit, quant, files, listing.license)


def add_to_lock(folder: Path, model: LockedModel) -> None:
    """Add a model to the lock file in `folder`, replacing an older entry of the same model or file. Raises OSError.

    An output that others have too, such as an mmproj file, is now the one of `model` for them as well.

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
        now = {file.path: file for file in model.outputs}
        others = [
            replace(other, outputs=tuple(now.get(file.path, file) for file in other.outputs))
            for other in models
            if not _replaces(model, other)
        ]
        write_lock(path, [*others, model])


def _replaces(model: LockedModel, other: LockedModel) -> bool:
    """Whether an entry for `model` takes the place of `other`'s: a file is what was last made under its name."""
    if model.outputs and other.outputs:
        return model.first_output == other.first_output
    return model.key == other.key


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
    ordered = sorted(models, key=lambda model: (*model.key, model.first_output))
    entries = [_to_object(model) for model in ordered if not model.is_local]
    local = [_to_object(model) for model in ordered if model.is_local]
    if ordered:
        content = {"format": _FORMAT, "models": entries, **({"local": local} if local else {})}
        replace_if_changed(path, (json.dumps(content, indent=1) + "\n").encode())
    else:
        path.unlink(missing_ok=True)


def _to_object(model: LockedModel) -> dict[str, Any]:
    left_out = {"files", "quant", "license"} if model.is_local else {"fingerprint"}
    return {name: value for name, value in asdict(model).items() if name not in left_out}


def read_lock(path: Path) -> list[LockedModel]:
    """Read and validate the models of a lock file. Raises QwenctlError."""
    try:
        # Everything is checked while parsing: a lock file may come from somebody else.
        data = read_json_object(path)
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']}")
        return [*map(_parse_model, data["models"]), *map(_parse_local, data.get("local", ()))]
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


def _parse_local(entry: dict[str, Any]) -> LockedModel:
    """Parse and validate the entry of a model that was quantized from a folder."""
    outputs = tuple(map(_parse_file, entry["outputs"]))
    texts = {name: entry[name] for name in ("repository", "commit", "recipe", "version", "fingerprint")}
    if not outputs or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("a model without files")
    if any(file.path in ("", ".", "..") or "/" in file.path for file in outputs):
        raise ValueError(f"a file outside of the folder: {outputs[0].path}")
    return LockedModel(quant="", files=(), outputs=outputs, **texts)


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
                f"{locked.path} of {model.title} is not in {folder}",
                "make it again with `qwenctl quantize`" if model.is_local else "pull it without --offline",
                ExitCode.NO_INPUT,
            )
        if path.stat().st_size != locked.size or file_sha256(path) != locked.sha256:
            raise _mismatch_error(model, f"{locked.path} has different content")
    return folder / (model.outputs or model.files)[0].path


def _mismatch_error(model: LockedModel, reason: str) -> QwenctlError:
    return QwenctlError(
        f"{model.title} does not match the lock file: {reason}",
        "make it again with `qwenctl quantize`" if model.is_local else "pull without --locked to write a new lock file",
        ExitCode.BAD_DATA,
    )
