"""The standard Hugging Face cache: the paths of a repository's files, and how complete files are published.

A repository name and `RemoteFile`s come in; paths go out. `models--OWNER--NAME/blobs/HASH` is the content of a file,
`snapshots/COMMIT/PATH` a link to it, and `refs/REVISION` contains the commit of a branch. A partially downloaded file
is `blobs/HASH.part`. Other tools see the complete files, and this program sees the files that they have downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from quantize.file_system import replace_files
from qwenctl.files.atomic import atomic_write
from qwenctl.hub.repository.listing import Listing, RemoteFile, hash_content


@dataclass(frozen=True)
class RepoCache:
    """One repository in the cache folder `root`."""

    root: Path
    repository: str

    @property
    def folder(self) -> Path:
        """The folder with everything that belongs to the repository."""
        return self.root / f"models--{self.repository.replace('/', '--')}"

    @property
    def lock_path(self) -> Path:
        """The lock file that keeps a second process out."""
        return self.root / ".locks" / self.folder.name / "qwenctl.lock"

    def blob_path(self, file: RemoteFile) -> Path:
        """The path of a file's content."""
        return self.folder / "blobs" / file.etag

    def part_path(self, file: RemoteFile) -> Path:
        """The path of a file's content while it is downloading."""
        return self.folder / "blobs" / f"{file.etag}.part"

    def snapshot_folder(self, commit: str) -> Path:
        """The folder with the links of one commit."""
        return self.folder / "snapshots" / commit

    def has(self, file: RemoteFile) -> bool:
        """Whether the content is present, judged by its length."""
        path = self.blob_path(file)
        return path.is_file() and path.stat().st_size == file.size

    def has_verified(self, file: RemoteFile) -> bool:
        """Whether the content is present and has the right hash; reads the whole file."""
        return self.has(file) and hash_content(self.blob_path(file), file.new_digest()) == file.etag

    def resolve_revision(self, revision: str) -> str:
        """The commit of a revision at the last pull; `revision` itself if the cache does not know it."""
        ref = self.folder / "refs" / revision
        return ref.read_text().strip() if ref.is_file() else revision

    def is_published(self, listing: Listing, files: Sequence[RemoteFile]) -> bool:
        """Whether all files are linked at the listing's commit, and the revision points to that commit."""
        names = (self.snapshot_folder(listing.commit) / file.path for file in files)
        return all(map(Path.is_file, names)) and self.resolve_revision(listing.revision) == listing.commit

    def publish(self, listing: Listing, files: Sequence[RemoteFile]) -> None:
        """Link files that are present at the listing's commit, and point the revision to it. Raises OSError."""
        # The revision is pointed to the commit last, when all links exist.
        for file in files:
            _make_link(self.snapshot_folder(listing.commit) / file.path, self.blob_path(file))
        if listing.revision != listing.commit:
            replace_if_changed(self.folder / "refs" / listing.revision, listing.commit.encode())


def default_cache_root() -> Path:
    """The default cache folder, which HF_HUB_CACHE or HF_HOME can change."""
    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests to the Hub."""
    return bool(constants.HF_HUB_OFFLINE)


def replace_if_changed(path: Path, data: bytes) -> None:
    """Atomically write a small file, unless it has this content already. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_bytes() == data:  # works in a read-only cache, too
        return
    with atomic_write(path, 0o666) as file:
        file.write(data)


def _make_link(name: Path, blob: Path) -> None:
    """Create a relative link, as other tools do, replacing an older one."""
    # A link cannot be replaced in place: create it under another name, then rename it.
    target = os.path.relpath(blob, name.parent)
    if name.is_symlink() and os.readlink(name) == target:
        return
    name.parent.mkdir(parents=True, exist_ok=True)
    temporary = name.with_name(f"{name.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    replace_files([(temporary, name)])
