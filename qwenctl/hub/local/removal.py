"""Remove models from this machine.

An `InstalledModel` comes in; the number of freed bytes goes out. Its links are deleted, and every blob that no other
link points to. Files that other models share stay.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from qwenctl.files.locks import file_lock
from qwenctl.hub.local.hf_cache import RepoCache
from qwenctl.hub.local.installed import InstalledModel
from qwenctl.hub.local.lock_file import LockedModel, change_lock


def remove_models(models: Sequence[InstalledModel], others: Sequence[InstalledModel]) -> int:
    """Remove `models` and return the freed bytes; `others` and their files stay. Raises QwenctlError, OSError."""
    shared = {path for model in others for path in model.files}
    freed = 0
    for model in models:
        own = [path for path in model.files if path not in shared]
        if model.cache is None:
            freed += _remove_conversion(model, own)
        else:
            with file_lock(model.cache.lock_path, 0, lambda _: None):  # fails at once while a pull is running
                freed += _remove_cached(model, own, model.cache)
    return freed


def _remove_conversion(model: InstalledModel, paths: Sequence[Path]) -> int:
    """Delete the files of a model that was quantized here; returns the freed bytes."""
    freed = sum(path.stat().st_size for path in paths)
    for path in paths:
        path.unlink()
    _remove_from_lock(model.files[0].parent, {path.name for path in paths})
    return freed


def _remove_cached(model: InstalledModel, paths: Sequence[Path], cache: RepoCache) -> int:
    """Delete the links of a model in a cache, and the blobs that become unused; returns the freed bytes."""
    blobs = {_blob_path(path) for path in paths}
    for path in paths:
        path.unlink()
    # Other snapshots may link to the same blobs; delete only blobs without links.
    linked = {_blob_path(path) for path in (cache.folder / "snapshots").rglob("*") if path.is_symlink()}
    freed = 0
    for blob in blobs - linked:
        with suppress(FileNotFoundError):
            freed += blob.stat().st_size
            blob.unlink()
    snapshot = cache.snapshot_folder(model.commit)
    _remove_from_lock(snapshot, {path.relative_to(snapshot).as_posix() for path in paths})
    _remove_empty_folders(cache)
    return freed


def _blob_path(path: Path) -> Path:
    """The target of a link in a snapshot, resolved by one step only: a blob may link into another tool's store."""
    return Path(os.path.normpath(path.parent / os.readlink(path))) if path.is_symlink() else path


def _remove_from_lock(folder: Path, names: set[str]) -> None:
    """Remove deleted files from the lock file, and models that have no files left."""

    def remove(models: list[LockedModel]) -> list[LockedModel]:
        # A quantized model lists files that are not on this disk, so only its outputs decide whether it is gone.
        remaining = [
            replace(
                model,
                files=model.files if model.outputs else tuple(file for file in model.files if file.path not in names),
                outputs=tuple(file for file in model.outputs if file.path not in names),
            )
            for model in models
        ]
        return [
            after
            for before, after in zip(models, remaining, strict=True)
            if (after.outputs if before.outputs else after.files)
        ]

    change_lock(folder, remove)


def _remove_empty_folders(cache: RepoCache) -> None:
    """Remove empty snapshot folders, and the whole repository if neither snapshots nor blobs are left."""
    snapshots = cache.folder / "snapshots"
    for folder in sorted((path for path in snapshots.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            folder.rmdir()
    if not any(snapshots.iterdir()) and not any((cache.folder / "blobs").glob("*")):
        shutil.rmtree(cache.folder)
