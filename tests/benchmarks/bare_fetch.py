"""Our download in a separate process, with and without hashing, to measure the cost of the hashes.

`python -m tests.benchmarks.bare_fetch hashed|unhashed REPOSITORY FOLDER` downloads all files of a repository and prints
the seconds taken, without the start of the interpreter and the listing.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from qwenctl.hub.download.downloader import DownloadOptions, download_all
from qwenctl.hub.download.hub_api import fetch_listing
from qwenctl.hub.download.segment_queue import DownloadTarget
from qwenctl.hub.repository.listing import Digest, RemoteFile


@dataclass(frozen=True)
class _NoDigest:
    """A digest that reads nothing and returns the expected value."""

    etag: str

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Nothing."""

    def hexdigest(self) -> str:
        """The expected digest."""
        return self.etag


class _Unhashed(RemoteFile):
    """An expected file whose content is not checked."""

    def digest(self) -> Digest:
        """A digest that costs nothing."""
        return _NoDigest(self.etag)


def _main(how: str, repository: str, folder: Path) -> None:
    settings = DownloadOptions()
    listing = fetch_listing(repository, "main", settings.patience, lambda _: None)
    kind = RemoteFile if how == "hashed" else _Unhashed
    files = [kind(file.path, file.size, file.git_sha1, file.sha256) for file in listing.files]
    wanted = [DownloadTarget(file, folder / f"{file.etag}.part", folder / file.etag) for file in files]
    start = time.perf_counter()
    download_all(listing, wanted, settings, lambda _: None, lambda _: None)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
