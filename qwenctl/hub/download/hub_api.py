"""What is asked of the Hub: a repository's description and tree, the place of a file, and a range of its bytes.

The session, the headers with the token, the listing and the metadata are huggingface_hub's. `http_get` is not used: it
hides a 429 until it is over, believes whatever range comes, and keeps ten megabytes in memory before it writes any.
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
from huggingface_hub.hf_api import ModelInfo, RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, not marked so

from qwenctl import __version__
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.http_errors import RetryableError, not_a_hub_error, translate_http_errors
from qwenctl.hub.download.retry import make_retry_policy
from qwenctl.hub.repository.listing import MAX_FILES, Listing, RemoteFile, check_paths

_LONGEST_SKIP = 64 << 20  # bytes before the wanted ones that may be skipped where a server does not know ranges
_LONGEST_REFUSAL = 1 << 20


@dataclass(frozen=True)
class DownloadUrl:
    """Where the bytes of a file are. A signed link to another server gets no token, and ends after a while."""

    file: RemoteFile
    url: str
    send_token: bool


def fetch_listing(repository: str, revision: str, patience: float, tell: Callable[[str], None]) -> Listing:
    """The repository at the commit that `revision` is now; `tell` hears why nothing comes. Raises QwenctlError."""
    return make_retry_policy(patience, tell).call(lambda: _describe(repository, revision))


def _describe(repository: str, revision: str) -> Listing:
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    api = HfApi(library_name="qwenctl", library_version=__version__)
    try:
        with translate_http_errors(repository, revision):
            info = api.model_info(repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            commit = str(info.sha)
            if not re.fullmatch("[0-9a-f]{40}", commit):
                raise not_a_hub_error()
            files = tuple(_files(api, repository, commit))
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # an answer that is no JSON, or another JSON
        raise not_a_hub_error() from error
    check_paths(repository, files)
    return _listing(repository, revision, commit, files, info)


def _files(api: HfApi, repository: str, commit: str) -> Iterator[RemoteFile]:
    tree = api.list_repo_tree(repository, recursive=True, revision=commit)
    for number, entry in enumerate(tree):
        if number >= MAX_FILES:
            raise QwenctlError(f"{repository} lists more than {MAX_FILES:,} files", "", ExitCode.BAD_DATA)
        if isinstance(entry, RepoFile):
            yield RemoteFile(
                str(entry.path), int(entry.size), str(entry.blob_id), entry.lfs.sha256 if entry.lfs else ""
            )


def _listing(repository: str, revision: str, commit: str, files: tuple[RemoteFile, ...], info: ModelInfo) -> Listing:
    gguf = info.gguf if isinstance(info.gguf, dict) else {}
    card = vars(info.card_data) if info.card_data else {}
    weights = gguf.get("total") or (info.safetensors.total if info.safetensors else 0)
    return Listing(
        repository, revision, commit, files,
        license=str(card.get("license") or ""),
        architecture=str(gguf.get("architecture") or ""),
        parameters=int(weights or 0),
        context_length=int(gguf.get("context_length") or 0),
    )  # fmt: skip


def resolve_url(listing: Listing, file: RemoteFile) -> DownloadUrl:
    """Where `file` can be fetched. Raises QwenctlError, Transient."""
    url = hf_hub_url(listing.repository, file.path, revision=listing.commit)
    with translate_http_errors(listing.repository, listing.revision):
        found = get_hf_file_metadata(url, library_name="qwenctl", library_version=__version__)
    if found.commit_hash is None:
        raise not_a_hub_error()
    if found.etag != file.etag or found.size not in (None, file.size):
        raise QwenctlError(
            f"{file.path}: the file's own hash is {found.etag}, its list says {file.etag}",
            "run again; if this repeats, the mirror in HF_ENDPOINT is not up to date",
            ExitCode.BAD_DATA,
        )
    return DownloadUrl(file, found.location, _origin(found.location) == _origin(constants.ENDPOINT))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class LinkExpired(RetryableError):
    """The link must be asked for again."""

    def __init__(self) -> None:
        super().__init__("a link that has expired")


@contextmanager
def open_range(link: DownloadUrl, start: int, end: int) -> Iterator[Iterator[bytes]]:
    """The bytes of a file from `start` to `end`, in pieces, or fewer if the connection is lost; never more.

    Raises Transient, LinkExpired, QwenctlError; the pieces raise Transient.
    """
    headers = build_hf_headers(token=None if link.send_token else False, library_name="qwenctl")
    headers |= {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    with (
        translate_http_errors(link.file.path),
        get_session().stream("GET", link.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer,
    ):
        if answer.status_code in (401, 403, 404, 410) and not link.send_token:
            raise LinkExpired
        if answer.status_code >= 400:
            _refuse(answer)
        yield _cut(answer, start - _begin(answer, link.file, start), end - start)


def read_range(link: DownloadUrl, start: int, end: int) -> bytes:
    """The bytes of a range, all of them. Raises Transient, LinkExpired, QwenctlError."""
    with open_range(link, start, end) as pieces:
        data = b"".join(pieces)
    if len(data) < end - start:
        raise RetryableError("connection lost")
    return data


def _refuse(answer: Response) -> None:
    """Raise what an answer with an error status means."""
    if int(answer.headers.get("Content-Length") or 0) < _LONGEST_REFUSAL:
        answer.read()
    if answer.status_code == 416:
        raise RetryableError("416 Range Not Satisfiable")
    hf_raise_for_status(answer)


def _begin(answer: Response, file: RemoteFile, start: int) -> int:
    """The place in the file at which the answer begins: `start`, or 0 where the server does not know ranges."""
    if answer.status_code == 206:
        if re.fullmatch(rf"bytes {start}-\d+/{file.size}", answer.headers.get("Content-Range", "")):
            return start
        raise RetryableError("a response with the wrong bytes")
    if answer.headers.get("Content-Type", "").startswith("text/html") and not file.path.endswith(".html"):
        raise not_a_hub_error()
    if answer.headers.get("Content-Length") != str(file.size):
        raise RetryableError("a response that is not the file")
    if start > _LONGEST_SKIP:
        raise RetryableError("a server that does not support ranges")
    return 0


def _cut(answer: Response, skip: int, length: int) -> Iterator[bytes]:
    """`length` bytes of the answer's body after the first `skip`."""
    is_exact = answer.headers.get("Content-Length") == str(skip + length)
    left, pieces = length, answer.iter_raw()
    for piece in pieces:
        part = piece[skip : skip + left]
        skip, left = max(0, skip - len(piece)), left - len(part)
        if part:
            yield part
        if not left and not is_exact:  # more than was asked for; else go on to the end, so that the connection is kept
            return
