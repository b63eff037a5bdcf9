"""What a repository holds at one commit, as values; and which paths may be believed.

A path of a repository becomes a path of this machine. One that would leave its folder, or that some system takes for a
device, is refused with the whole repository: nobody publishes such a path by accident.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from qwenctl.errors import ExitCode, QwenctlError

MAX_FILES = 100_000
# Names of devices on Windows, with any ending (docs: "Naming Files, Paths, and Namespaces").
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')


class Digest(Protocol):
    """A running hash."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Go on with `data`."""

    def hexdigest(self) -> str:
        """The hash of all data so far."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. Small files are kept in git, which names them by `git_sha1`; they have no `sha256`."""

    path: str
    size: int
    git_sha1: str
    sha256: str = ""

    @property
    def etag(self) -> str:
        """The hash by which the Hub and its cache name the content."""
        return self.sha256 or self.git_sha1

    def digest(self) -> Digest:
        """A new hash that comes to `etag` for the right content."""
        if self.sha256:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


@dataclass(frozen=True)
class Listing:
    """A repository at `commit`. `parameters` and `context_length` are 0 where the Hub does not tell them."""

    repository: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    license: str = ""
    architecture: str = ""
    parameters: int = 0
    context_length: int = 0

    def file(self, path: str) -> RemoteFile | None:
        """The file at `path`."""
        return next((file for file in self.files if file.path == path), None)


def check_paths(repository: str, files: Iterable[RemoteFile]) -> None:
    """Raise QwenctlError if a path of the repository cannot be a path below a folder here."""
    seen: set[str] = set()
    for file in files:
        if not _is_safe(file.path) or file.path.casefold() in seen or file.size < 0:
            raise QwenctlError(
                f"{repository} lists the unsafe path {file.path!r}; nothing was downloaded",
                "report it to its owner, or pull another repository",
                ExitCode.BAD_DATA,
            )
        seen.add(file.path.casefold())


def _is_safe(path: str) -> bool:
    """Whether `path` is relative, stays in its folder, and names a file on every system."""
    parts = path.split("/")
    return len(path) < 1024 and not _FORBIDDEN.search(path) and all(map(_is_safe_part, parts))


def _is_safe_part(part: str) -> bool:
    return (
        part not in ("", ".", "..")
        and part[-1] not in ". "
        and len(part.encode()) < 255
        and not _DEVICE.fullmatch(part)
    )
