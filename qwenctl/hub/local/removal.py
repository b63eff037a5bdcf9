"""Taking models and leftovers off this machine.

An `InstalledModel` comes in; its names go, and every blob that no other name leads to. What other models share stays.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from qwenctl.errors import QwenctlError
from qwenctl.files.locks import file_lock
from qwenctl.hub.local.hf_cache import RepoCache
from qwenctl.hub.local.installed import InstalledModel
from qwenctl.hub.local.lock_file import NAME, read_lock, write_lock


def remove_models(models: Sequence[InstalledModel], others: Sequence[InstalledModel]) -> int:
    """Remove models; the bytes that became free. `others` stay, with what they share. Raises QwenctlError, OSError."""
    kept = {path for model in others for path in model.files}
    freed = 0
    for model in models:
        own = [path for path in model.files if path not in kept]
        if model.cache is None:
            freed += _remove_made(model, own)
        else:
            with file_lock(model.cache.lock_path, 0, lambda _: None):
                freed += _remove_cached(model, own, model.cache)
    return freed


def _remove_made(model: InstalledModel, paths: Sequence[Path]) -> int:
    freed = sum(path.stat().st_size for path in paths)
    for path in paths:
        path.unlink()
    _forget(model.files[0].parent, {path.name for path in paths})
    return freed


def _remove_cached(model: InstalledModel, paths: Sequence[Path], cache: RepoCache) -> int:
    blobs = {_blob(path) for path in paths}
    for path in paths:
        path.unlink()
    still = {_blob(path) for path in (cache.folder / "snapshots").rglob("*") if path.is_symlink()}
    freed = 0
    for blob in blobs - still:
        with suppress(FileNotFoundError):
            freed += blob.stat().st_size
            blob.unlink()
    snapshot = cache.snapshot(model.commit)
    _forget(snapshot, {path.relative_to(snapshot).as_posix() for path in paths})
    _remove_empty(cache)
    return freed


def _blob(path: Path) -> Path:
    """What a name in a snapshot leads to, by one step: a blob may itself be a link into a store of other tools."""
    return Path(os.path.normpath(path.parent / os.readlink(path))) if path.is_symlink() else path


def _forget(folder: Path, names: set[str]) -> None:
    """Take what is gone out of the lock file; a model without its files goes as a whole."""
    try:
        models = read_lock(folder / NAME)
    except QwenctlError:
        return
    left = [
        replace(
            model,
            files=model.files if model.outputs else tuple(one for one in model.files if one.path not in names),
            outputs=tuple(one for one in model.outputs if one.path not in names),
        )
        for model in models
    ]
    write_lock(
        folder / NAME,
        [one for was, one in zip(models, left, strict=True) if (one.outputs if was.outputs else one.files)],
    )


def _remove_empty(cache: RepoCache) -> None:
    """Remove the folders in which nothing is left, and the whole repository if no snapshot is."""
    snapshots = cache.folder / "snapshots"
    for folder in sorted((path for path in snapshots.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            folder.rmdir()
    if not any(snapshots.iterdir()) and not any((cache.folder / "blobs").glob("*")):
        shutil.rmtree(cache.folder)
