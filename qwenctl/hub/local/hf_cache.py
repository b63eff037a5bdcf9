"""The standard Hugging Face cache: where a repository's files lie, and how a finished one gets its name there.

`models--OWNER--NAME/blobs/HASH` is the content, `snapshots/COMMIT/PATH` a link to it, `refs/REVISION` the commit of a
branch. A file on its way is `blobs/HASH.part`. Other tools see what is finished, and this program sees what they have
fetched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from qwenctl.hub.download.partial_file import sync_folder
from qwenctl.hub.repository.listing import Listing, RemoteFile

_PIECE = 1 << 20


@dataclass(frozen=True)
class RepoCache:
    """The folder of one repository in a cache."""

    root: Path
    repository: str

    @property
    def folder(self) -> Path:
        """All that belongs to the repository."""
        return self.root / f"models--{self.repository.replace('/', '--')}"

    @property
    def lock_path(self) -> Path:
        """The file by which processes keep each other out."""
        return self.root / ".locks" / self.folder.name / "qwenctl.lock"

    def blob(self, file: RemoteFile) -> Path:
        """Where the content of a file lies."""
        return self.folder / "blobs" / file.etag

    def part(self, file: RemoteFile) -> Path:
        """Where it lies while it arrives."""
        return self.folder / "blobs" / f"{file.etag}.part"

    def snapshot(self, commit: str) -> Path:
        """The folder with the names of one commit."""
        return self.folder / "snapshots" / commit

    def has(self, file: RemoteFile) -> bool:
        """Whether the content is here, by its length."""
        path = self.blob(file)
        return path.is_file() and path.stat().st_size == file.size

    def has_verified(self, file: RemoteFile) -> bool:
        """Whether the content is here, by its hash."""
        return self.has(file) and hash_of(self.blob(file), file) == file.etag

    def commit_of(self, revision: str) -> str:
        """The commit that a revision was when it was last asked for; the revision itself if it is none here."""
        ref = self.folder / "refs" / revision
        return ref.read_text().strip() if ref.is_file() else revision

    def is_published(self, listing: Listing, files: Sequence[RemoteFile]) -> bool:
        """Whether files have their names at the listing's commit, which the revision's name leads to."""
        names = (self.snapshot(listing.commit) / file.path for file in files)
        return all(map(Path.is_file, names)) and self.commit_of(listing.revision) == listing.commit

    def publish(self, listing: Listing, files: Sequence[RemoteFile]) -> None:
        """Give files that are here their names at the listing's commit."""
        for file in files:
            _link(self.snapshot(listing.commit) / file.path, self.blob(file))
        if listing.revision != listing.commit:
            atomic_write(self.folder / "refs" / listing.revision, listing.commit.encode())


def default_root() -> Path:
    """The cache that HF_HUB_CACHE or HF_HOME name."""
    return Path(constants.HF_HUB_CACHE)


def hash_of(path: Path, file: RemoteFile) -> str:
    """The hash of what lies at `path`, of the kind by which `file` is named."""
    digest = file.digest()
    with path.open("rb") as content:
        while piece := content.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE says that nobody may be asked."""
    return bool(constants.HF_HUB_OFFLINE)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a small file so that there is never half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_bytes() == data:
        return
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    sync_folder(path.parent)


def _link(name: Path, blob: Path) -> None:
    """A relative link, as other tools make it."""
    target = os.path.relpath(blob, name.parent)
    if name.is_symlink() and os.readlink(name) == target:
        return
    name.parent.mkdir(parents=True, exist_ok=True)
    new = name.with_name(f"{name.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, name)
