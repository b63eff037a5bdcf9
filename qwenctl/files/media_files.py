"""Turn the images and videos that a user names into `Media`.

Paths, "-" for standard input, data URIs and URLs come in; `Media` goes out. Nothing is decoded here: the first bytes
decide what a file is. An image is copied when it is sent, so that later changes to the file do not matter; a video is
used in place. URLs are fetched only if that is allowed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import unquote_to_bytes, urlsplit

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import write_private
from qwenctl.files.fetch_url import FetchLimits, fetch_url
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message

MAX_BYTES = 64 << 20  # limit for an image, and for anything from standard input, a data URI or a URL
STANDARD_INPUT = "-"
_SUPPORTED = "PNG, JPEG, WebP, GIF, AVIF, HEIC; MP4, MOV, MKV, WebM, AVI"
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
# In order: HEIF and AVIF images are ISO media files ("ftyp") like MP4 and MOV, so their brands are tested first.
_SIGNATURES: tuple[tuple[re.Pattern[bytes], Literal["image", "video"]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP", re.DOTALL), "image"),
    (re.compile(rb"....ftyp(?:" + b"|".join(_HEIF) + rb")", re.DOTALL), "image"),
    (re.compile(rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", re.DOTALL), "video"),
)
# RFC 2397: data:[type][;parameters][;base64],data
_DATA_URI = re.compile(r"data:(?P<type>[\w.+/-]*)(?:;[\w.+=-]+)*?(?P<base64>;base64)?,(?P<data>.*)", re.DOTALL)


@dataclass(frozen=True)
class MediaSource:
    """Where media may come from. Copies are stored in `folder`, which is created when needed.

    Without `copies`, image files are used in place as well. `stdin` can be read only once. `allows_private` says that
    URLs may name private addresses: they are typed by the user, or the user has said so.
    """

    folder: Path
    allows_urls: bool = False
    stdin: BinaryIO | None = None
    copies: bool = True
    allows_private: bool = False

    def resolve(self, source: str) -> Media:
        """Resolve `source` (a path, "-", a data URI or a URL) to an image or video. Raises QwenctlError."""
        if source == STANDARD_INPUT:
            return self._read_stdin()
        if source.startswith("data:"):
            return self._store_copy(_decode_data_uri(source), "the data URI")
        if re.match("https?://", source, re.IGNORECASE):
            if not self.allows_urls:
                raise QwenctlError(f"{source} is not downloaded without --allow-url", "add --allow-url")
            data = fetch_url(source, FetchLimits(MAX_BYTES), allows_private=self.allows_private)
            return self._store_copy(data, Path(urlsplit(source).path).name or source)
        return self._from_file(Path(source).expanduser())

    def remove(self, media: Media) -> None:
        """Delete the copy of `media`, if it is one; the user's own files stay."""
        if Path(media.file).parent == self.folder:
            Path(media.file).unlink(missing_ok=True)

    def _read_stdin(self) -> Media:
        """Read an image or video from standard input. Raises QwenctlError."""
        if self.stdin is None:
            raise QwenctlError("-i -: nothing is piped into standard input", 'cat photo.png | qwenctl chat -i - "…"')
        data = self.stdin.read(MAX_BYTES + 1)
        if not data:
            raise QwenctlError("-i -: standard input is empty", "", ExitCode.NO_INPUT)
        return self._store_copy(data, "standard input")

    def _from_file(self, path: Path) -> Media:
        """Read a local file: copy an image if `copies`, and only hash a video. Raises QwenctlError."""
        try:
            with path.open("rb") as file:
                kind = _media_kind(file.read(16), str(path))
                file.seek(0)
                if kind == "image" and self.copies:
                    return self._store_copy(file.read(MAX_BYTES + 1), path.name)
                return Media(kind, str(path.absolute()), hashlib.file_digest(file, "sha256").hexdigest(), path.name)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise QwenctlError(f"{path}: {reason}", "", ExitCode.NO_INPUT) from error

    def _store_copy(self, data: bytes, name: str) -> Media:
        """Check type and size of `data`, and store it in `folder`. Raises QwenctlError, OSError."""
        kind = _media_kind(data[:16], name)
        if len(data) > MAX_BYTES:
            raise QwenctlError(f"{name} is larger than {MAX_BYTES >> 20} MiB", "make it smaller", ExitCode.BAD_DATA)
        # Named by its hash, so that the same image is stored once.
        sha256 = hashlib.sha256(data).hexdigest()
        self.folder.mkdir(0o700, exist_ok=True)
        write_private(self.folder / sha256, data)
        return Media(kind, str(self.folder / sha256), sha256, name)


def refuse_media(_source: str) -> Media:
    """The resolver where media cannot be sent. Raises QwenctlError."""
    raise QwenctlError("images cannot be sent here")


def unresolved_media(kind: Literal["image", "video"], source: str, at: int) -> Media:
    """Media of which only the source is known; `resolve_message_media` completes it. `at` is its offset in the text."""
    return Media(kind, source, "", source[:60], at)


def resolve_message_media(message: Message, resolve: Callable[[str], Media]) -> Message:
    """Return `message` with its unresolved media replaced through `resolve`. Raises QwenctlError."""
    media = (item if item.sha256 else replace(resolve(item.file), at=item.at) for item in message.media)
    return replace(message, media=tuple(media))


def to_data_uri(media: Media) -> str:
    """Encode the file of `media` as a data URI; URLs and data URIs are returned unchanged. Raises QwenctlError."""
    if re.match("data:|https?://", media.file, re.IGNORECASE):
        return media.file
    try:
        data = Path(media.file).expanduser().read_bytes()
    except OSError as error:
        raise QwenctlError(f"{media.file}: {(error.strerror or str(error)).lower()}", "", ExitCode.NO_INPUT) from error
    _media_kind(data[:16], media.name)
    mime_type = mimetypes.guess_type(media.file)[0] or ("image/png" if media.kind == "image" else "video/mp4")
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def is_media(path: Path) -> bool:
    """Whether the first bytes of the file at `path` are those of an image or a video."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return find_media_kind(head) is not None


def find_media_kind(head: bytes) -> Literal["image", "video"] | None:
    """Whether a file that begins with the 16 bytes `head` is an image or a video; None if it is neither."""
    return next((kind for pattern, kind in _SIGNATURES if pattern.match(head)), None)


def _media_kind(head: bytes, name: str) -> Literal["image", "video"]:
    """Recognize a file by its first 16 bytes, `head`. Raises QwenctlError with `name` if it is neither."""
    kind = find_media_kind(head)
    if kind is None:
        raise QwenctlError(f"{name} is neither an image nor a video", f"supported: {_SUPPORTED}", ExitCode.BAD_DATA)
    return kind


def _decode_data_uri(uri: str) -> bytes:
    """Decode the bytes of a data URI. Raises QwenctlError."""
    match = _DATA_URI.fullmatch(uri)
    try:
        if match is None:
            raise ValueError
        data = unquote_to_bytes(match["data"])
        return base64.b64decode(data, validate=True) if match["base64"] else data
    except (ValueError, binascii.Error) as error:
        raise QwenctlError("the data URI is damaged", "data:image/png;base64,…", ExitCode.BAD_DATA) from error
