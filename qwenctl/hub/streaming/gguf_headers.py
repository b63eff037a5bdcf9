"""Download only the headers of GGUF files, which is enough to know their tensors.

A listing and some of its files come in; sparse files of the original length, with only the headers in them, go out.
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

_FIRST_BYTES, _LATER_BYTES, _MAX_BYTES = 1 << 24, 1 << 20, 1 << 28  # the vocabulary takes 11 MB, in the first split


def fetch_gguf_headers(
    listing: Listing, files: Sequence[RemoteFile], folder: Path, options: DownloadOptions, notify: Callable[[str], None]
) -> list[Path]:
    """Download the headers of `files` into `folder`; returns the paths in order. Raises QwenctlError."""
    retry_policy = make_retry_policy(options.patience, notify)
    paths = []
    for number, file in enumerate(files):
        path, available, end = folder / Path(file.path).name, 0, _LATER_BYTES if number else _FIRST_BYTES
        # The size of a header is not known in advance: extend the range until the header can be parsed.
        while True:
            end = min(end, file.size)
            data = retry_policy.call(lambda: read_range(resolve_url(listing, file), available, end))  # noqa: B023 - called here
            _write_sparse(path, available, data, file.size)
            available = end
            if (error := _header_error(path)) is None:
                break
            if available >= min(file.size, _MAX_BYTES):
                raise error
            end *= 4
        paths.append(path)
    return paths


def _write_sparse(path: Path, offset: int, data: bytes, size: int) -> None:
    with path.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(data)
        file.truncate(size)


def _header_error(path: Path) -> QwenctlError | None:
    """The error of reading the header, for example because it is incomplete; None if it is readable."""
    try:
        read_header(path)
    except BadGGUF as error:
        return from_quantize(error)
    return None
