"""The content of a repository at one commit, and the check that its paths are safe.

The paths of a repository become paths on this machine. If one of them would leave its folder, or is a device name on
some system, the whole repository is rejected, because such a path is not published by accident. How a listing is
fetched is not known here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qwenctl.errors import ExitCode, QwenctlError

MAX_FILES = 100_000
_CHUNK_BYTES = 1 << 20
# Device names on Windows, with any extension (docs: "Naming Files, Paths, and Namespaces").
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
# Control characters, and characters that Windows or macOS do not allow in file names.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')


class Digest(Protocol):
    """A running hash, as in hashlib."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add `data` to the hash."""

    def hexdigest(self) -> str:
        """The hash of all data so far, in hex."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. Small files are stored in git and have only a `git_sha1`; their `sha256` is ""."""

    path: str
    size: int
    git_sha1: str
    sha256: str = ""

    @property
    def etag(self) -> str:
        """The hash by which the Hub and its cache identify the content."""
        return self.sha256 or self.git_sha1

    def new_digest(self) -> Digest:
        """A new hash object whose result is `etag` for the right content."""
        if self.sha256:
            return hashlib.sha256()
        return git_digest(self.size)


def git_digest(size: int) -> Digest:
    """A new hash object whose result is the SHA-1 that git has for a file of `size` bytes."""
    # git hashes "blob SIZE\0" before the content. It is an identifier, not protection against forgery.
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


def hash_content(path: Path, digest: Digest, on_read: Callable[[int], None] = lambda _: None) -> str:
    """Hash the content at `path` with `digest`; `on_read` is called with the size of each chunk. Raises OSError."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_read(len(chunk))
    return digest.hexdigest()


@dataclass(frozen=True)
class Listing:
    """A repository at `commit`. `parameters` and `context_length` (tokens) are 0 if the Hub does not report them."""

    repository: str
    revision: str  # as requested: a branch, a tag or a commit
    commit: str  # what it resolved to
    files: tuple[RemoteFile, ...]
    license: str = ""
    architecture: str = ""
    parameters: int = 0
    context_length: int = 0

    def find_file(self, path: str) -> RemoteFile | None:
        """The file at `path`; None if there is none."""
        return next((file for file in self.files if file.path == path), None)


def check_paths(repository: str, files: Iterable[RemoteFile]) -> None:
    """Raise QwenctlError if a path is not safe, if two paths differ only in case, or if a size is negative."""
    seen: set[str] = set()
    for file in files:
        if not _is_safe(file.path) or file.path.casefold() in seen or file.size < 0:
            raise QwenctlError(
                f"{repository} lists the unsafe path {file.path!r}; nothing was downloaded",
                "report it to its owner, or pull another repository",
                ExitCode.BAD_DATA,
            )
        # Case-insensitive, as the file systems of macOS and Windows are.
        seen.add(file.path.casefold())


def _is_safe(path: str) -> bool:
    """Whether `path` is relative, stays in its folder, and is a valid file name on every system."""
    parts = path.split("/")
    return len(path) < 1024 and not _FORBIDDEN.search(path) and all(map(_is_safe_part, parts))


def _is_safe_part(part: str) -> bool:
    """Whether one component of a path is a valid name on Linux, macOS and Windows."""
    return (
        part not in ("", ".", "..")
        and part[-1] not in ". "
        and len(part.encode()) < 255
        and not _DEVICE.fullmatch(part)
    )
