"""The requests to the Hub: a repository's description and file tree, the URL of a file, and a range of its bytes.

Names and byte ranges come in; a `Listing`, a `DownloadUrl` or bytes go out. huggingface_hub provides the session, the
headers with the token, the tree and the file metadata. Its `http_get` is not used: it hides a 429 until it is over,
accepts any range the server sends, and buffers ten megabytes in memory before it writes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from httpx2 import Response
from huggingface_hub import HfApi, constants, get_session, hf_raise_for_status
from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, not marked so

from qwenctl import __version__
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.http_errors import RetryableError, not_a_hub_error, revision_error, translate_http_errors
from qwenctl.hub.download.hub_reply import check_reply, describe_model, parse_file
from qwenctl.hub.download.retry import make_retry_policy
from qwenctl.hub.repository.listing import MAX_FILES, Listing, RemoteFile, check_paths

_MAX_SKIP_BYTES = 64 << 20  # bytes to skip at most if a server ignores the Range header
_MAX_ERROR_BODY_BYTES = 1 << 20  # the body of an error is read for its message only if it is shorter


@dataclass(frozen=True)
class DownloadUrl:
    """Where to download a file. A signed URL on another server is requested without a token, and it expires."""

    file: RemoteFile
    url: str
    send_token: bool


def fetch_listing(repository: str, revision: str, patience: float, notify: Callable[[str], None]) -> Listing:
    """Fetch the repository at the current commit of `revision`.

    Retries for `patience` seconds; `notify` is called with the reason of each wait. Raises QwenctlError.
    """
    return make_retry_policy(patience, notify).call(lambda: _request_listing(repository, revision))


def _request_listing(repository: str, revision: str) -> Listing:
    """Request description and file tree, without retries. Raises RetryableError or QwenctlError."""
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # failures are reported by our own errors
    api = HfApi(library_name="qwenctl", library_version=__version__)
    with check_reply(repository):
        with _blame_revision(api, repository, revision), translate_http_errors(repository, revision):
            info = api.model_info(repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            commit = str(info.sha)
            if not re.fullmatch("[0-9a-f]{40}", commit):
                raise not_a_hub_error()
            files = tuple(_iter_files(api, repository, commit))
        check_paths(repository, files)
        return Listing(repository, revision, commit, files, **describe_model(info))


@contextmanager
def _blame_revision(api: HfApi, repository: str, revision: str) -> Iterator[None]:
    """Inside, "not found" is about the revision if the repository itself is there: some mirrors do not say which."""
    try:
        yield
    except QwenctlError as error:
        if error.code != ExitCode.NO_INPUT or revision == "main":
            raise
        try:
            with translate_http_errors(repository):
                api.model_info(repository, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except (QwenctlError, RetryableError):
            raise error from None
        raise revision_error(repository, revision) from error


def _iter_files(api: HfApi, repository: str, commit: str) -> Iterator[RemoteFile]:
    """Yield the files of the tree; folders are skipped. Raises QwenctlError if there are too many."""
    tree = api.list_repo_tree(repository, recursive=True, revision=commit)
    for number, entry in enumerate(tree):
        if number >= MAX_FILES:
            raise QwenctlError(f"{repository} lists more than {MAX_FILES:,} files", "", ExitCode.BAD_DATA)
        if isinstance(entry, RepoFile):
            yield parse_file(entry)


def resolve_url(listing: Listing, file: RemoteFile) -> DownloadUrl:
    """Ask the Hub where to download `file`. Raises RetryableError, and QwenctlError if its hash or size is wrong."""
    url = hf_hub_url(listing.repository, file.path, revision=listing.commit)
    with check_reply(listing.repository), translate_http_errors(listing.repository, listing.revision):
        metadata = get_hf_file_metadata(url, library_name="qwenctl", library_version=__version__)
    if metadata.commit_hash is None:
        raise not_a_hub_error()
    if metadata.etag != file.etag or metadata.size not in (None, file.size):
        raise QwenctlError(
            f"{file.path}: the file's own hash is {metadata.etag}, its list says {file.etag}",
            "run again; if this repeats, the mirror in HF_ENDPOINT is not up to date",
            ExitCode.BAD_DATA,
        )
    with check_reply(listing.repository):  # a location that is no URL
        return DownloadUrl(file, metadata.location, _url_origin(metadata.location) == _url_origin(constants.ENDPOINT))


def _url_origin(url: str) -> tuple[str, str]:
    """Scheme and host of a URL; the token is sent only to the origin of the Hub."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class LinkExpired(RetryableError):
    """A signed URL has expired and must be resolved again."""

    def __init__(self) -> None:
        super().__init__("a link that has expired")


@contextmanager
def open_range(source: DownloadUrl, start: int, end: int) -> Iterator[Iterator[bytes]]:
    """Request the bytes from `start` to `end` (exclusive); yields them in chunks, fewer if the connection is lost.

    Raises RetryableError, LinkExpired, QwenctlError; iterating over the chunks raises RetryableError.
    """
    headers = build_hf_headers(token=None if source.send_token else False, library_name="qwenctl")
    # "identity": with a compressed body, offsets and lengths would not be those of the file.
    headers |= {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    with (
        translate_http_errors(source.file.path),
        get_session().stream("GET", source.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response,
    ):
        # Without our token on it, such a status is about the signature of the URL, not about the user's access.
        if response.status_code in (401, 403, 404, 410) and not source.send_token:
            raise LinkExpired
        if response.status_code >= 400:
            _raise_for_status(response)
        yield _iter_range(response, start - _body_offset(response, source.file, start), end - start)


def read_range(source: DownloadUrl, start: int, end: int) -> bytes:
    """Read all bytes from `start` to `end` (exclusive). Raises RetryableError, LinkExpired, QwenctlError."""
    with open_range(source, start, end) as chunks:
        data = b"".join(chunks)
    if len(data) < end - start:
        raise RetryableError("connection lost")
    return data


def _raise_for_status(response: Response) -> None:
    """Raise the error for a response with an error status; reads a short body first, for its message."""
    length = response.headers.get("Content-Length") or "0"
    if re.fullmatch("[0-9]{1,9}", length) and int(length) < _MAX_ERROR_BODY_BYTES:
        response.read()
    if response.status_code == 416:
        raise RetryableError("416 Range Not Satisfiable")
    hf_raise_for_status(response)


def _body_offset(response: Response, file: RemoteFile, start: int) -> int:
    """The file offset of the first body byte: `start`, or 0 if the server ignores the Range header.

    Raises RetryableError or QwenctlError if the response is for other bytes or another file.
    """
    if response.status_code == 206:
        if re.fullmatch(rf"bytes {start}-\d+/{file.size}", response.headers.get("Content-Range", "")):
            return start
        raise RetryableError("a response with the wrong bytes")
    if response.headers.get("Content-Type", "").startswith("text/html") and not file.path.endswith(".html"):
        raise not_a_hub_error()
    if response.headers.get("Content-Length") != str(file.size):
        raise RetryableError("a response that is not the file")
    if start > _MAX_SKIP_BYTES:
        raise RetryableError("a server that does not support ranges")
    return 0


def _iter_range(response: Response, skip: int, length: int) -> Iterator[bytes]:
    """Yield `length` bytes of the response body after the first `skip` bytes."""
    # The raw body, without decoding. Only an exact response is read to its end: then the connection can be reused.
    is_exact = response.headers.get("Content-Length") == str(skip + length)
    remaining, chunks = length, response.iter_raw()
    for chunk in chunks:
        part = chunk[skip : skip + remaining]
        skip, remaining = max(0, skip - len(chunk)), remaining - len(part)
        if part:
            yield part
        if not remaining and not is_exact:  # the rest of the body is not needed
            return
