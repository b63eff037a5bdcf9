"""Models in a Hugging Face cache of the test: blobs, the links of a snapshot, and the lock file beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from qwenctl.hub.local.hf_cache import RepoCache
from qwenctl.hub.local.installed import InstalledModel
from qwenctl.hub.local.lock_file import LOCK_NAME, LockedFile, LockedModel, write_lock
from qwenctl.hub.repository.listing import Listing, RemoteFile

REPOSITORY, COMMIT = "owner/name", "c" * 40


def cached_model(
    root: Path, contents: Mapping[str, bytes], quant: str = "Q4_K_M", commit: str = COMMIT, *, locked: bool = True
) -> InstalledModel:
    """A model whose files have these `contents` by name; with `locked` the lock file lists it alone."""
    cache = RepoCache(root, REPOSITORY)
    files = [RemoteFile(name, len(data), "", hashlib.sha256(data).hexdigest()) for name, data in contents.items()]
    (cache.folder / "blobs").mkdir(parents=True, exist_ok=True)
    for file in files:
        cache.blob_path(file).write_bytes(contents[file.path])
    cache.publish(Listing(REPOSITORY, "main", commit, tuple(files)), files)
    snapshot = cache.snapshot_folder(commit)
    if locked:
        entries = tuple(LockedFile(file.path, file.size, file.sha256) for file in files)
        write_lock(snapshot / LOCK_NAME, [LockedModel(REPOSITORY, commit, quant, entries)])
    return InstalledModel(REPOSITORY, quant, commit, tuple(snapshot / name for name in contents), cache)
