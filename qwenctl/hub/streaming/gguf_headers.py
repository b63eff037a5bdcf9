"""GGUF files of the Hub without their weights: enough to know their tensors.

A listing and files of it come in; sparse files of the same length, with the headers in them, go into a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from quantize.errors import BadGGUF
from quantize.gguf_header import read_header
from qwenctl.errors import QwenctlError, from_quantize
from qwenctl.hub.download.downloader import DownloadOptions
from qwenctl.hub.download.hub_api import read_range, resolve_url
from qwenctl.hub.download.retry import make_retry_policy
from qwenctl.hub.repository.listing import Listing, RemoteFile

_FIRST_BYTES, _LATER_BYTES, _MOST_BYTES = 1 << 24, 1 << 20, 1 << 28  # a vocabulary takes 11 MB, and is in the first


def fetch_headers(
    listing: Listing, files: Sequence[RemoteFile], folder: Path, settings: DownloadOptions, tell: Callable[[str], None]
) -> list[Path]:
    """Where the headers of the files are now, in order. Raises QwenctlError."""
    patience = make_retry_policy(settings.patience, tell)
    paths = []
    for number, file in enumerate(files):
        path, there, wanted = folder / Path(file.path).name, 0, _LATER_BYTES if number else _FIRST_BYTES
        while True:
            wanted = min(wanted, file.size)
            data = patience.call(lambda: read_range(resolve_url(listing, file), there, wanted))  # noqa: B023 - called here
            _write(path, there, data, file.size)
            there = wanted
            if (error := _problem(path)) is None:
                break
            if there >= min(file.size, _MOST_BYTES):
                raise error
            wanted *= 4
        paths.append(path)
    return paths


def _write(path: Path, at: int, data: bytes, size: int) -> None:
    with path.open("r+b" if at else "wb") as file:
        file.seek(at)
        file.write(data)
        file.truncate(size)


def _problem(path: Path) -> QwenctlError | None:
    """Why the header cannot be read, which may be that not all of it is there."""
    try:
        read_header(path)
    except BadGGUF as error:
        return from_quantize(error)
    return None
