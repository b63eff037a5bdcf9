"""Pictures and clips that a person names: files, standard input, data URIs and addresses become `Media`.

Nothing is decoded here: what a file is, is told by its first bytes alone. A picture is copied when it is sent, so that
it stays what it was; a clip stays where it lies. Nothing is fetched unless that is allowed.
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
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message

MAX_BYTES = 64 << 20  # of a picture, and of what comes through a pipe or from an address
STANDARD_INPUT = "-"
_CAN_BE = "PNG, JPEG, WebP, GIF, AVIF, HEIC; MP4, MOV, MKV, WebM, AVI"
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
_KINDS: tuple[tuple[re.Pattern[bytes], Literal["image", "video"]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP", re.DOTALL), "image"),
    (re.compile(rb"....ftyp(?:" + b"|".join(_HEIF) + rb")", re.DOTALL), "image"),
    (re.compile(rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", re.DOTALL), "video"),
)
_DATA_URI = re.compile(r"data:(?P<type>[\w.+/-]*)(?:;[\w.+=-]+)*?(?P<base64>;base64)?,(?P<data>.*)", re.DOTALL)
_SECONDS = 30.0
_REDIRECTS = 5


@dataclass(frozen=True)
class MediaSource:
    """Where pictures may come from, and the `folder`, made when needed, for their copies; if not `copies`, files stay.

    `stdin` can be taken once.
    """

    folder: Path
    allows_urls: bool = False
    stdin: BinaryIO | None = None
    copies: bool = True

    def resolve(self, named: str) -> Media:
        """The picture or clip that `named` means: a path, "-", a data URI, an address. Raises QwenctlError."""
        if named == STANDARD_INPUT:
            return self._standard_input()
        if named.startswith("data:"):
            return self._copied(_of_data_uri(named), "the data URI")
        if re.match("https?://", named, re.IGNORECASE):
            if not self.allows_urls:
                raise QwenctlError(f"{named} is not downloaded without --allow-url", "add --allow-url")
            return self._copied(_fetched(named), Path(urlsplit(named).path).name or named)
        return self._of_file(Path(named).expanduser())

    def forget(self, media: Media) -> None:
        """Remove the copy of what is not needed any more, if it is one."""
        if Path(media.file).parent == self.folder:
            Path(media.file).unlink(missing_ok=True)

    def _standard_input(self) -> Media:
        if self.stdin is None:
            raise QwenctlError("-i -: nothing is piped into standard input", 'cat photo.png | qwenctl chat -i - "…"')
        data = self.stdin.read(MAX_BYTES + 1)
        if not data:
            raise QwenctlError("-i -: standard input is empty", "", ExitCode.NO_INPUT)
        return self._copied(data, "standard input")

    def _of_file(self, path: Path) -> Media:
        try:
            with path.open("rb") as file:
                kind = _kind(file.read(16), str(path))
                file.seek(0)
                if kind == "image" and self.copies:
                    return self._copied(file.read(MAX_BYTES + 1), path.name)
                return Media(kind, str(path.absolute()), hashlib.file_digest(file, "sha256").hexdigest(), path.name)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise QwenctlError(f"{path}: {reason}", "", ExitCode.NO_INPUT) from error

    def _copied(self, data: bytes, name: str) -> Media:
        kind = _kind(data[:16], name)
        if len(data) > MAX_BYTES:
            raise QwenctlError(f"{name} is larger than {MAX_BYTES >> 20} MiB", "make it smaller", ExitCode.BAD_DATA)
        sha256 = hashlib.sha256(data).hexdigest()
        self.folder.mkdir(0o700, exist_ok=True)
        write_private(self.folder / sha256, data)
        return Media(kind, str(self.folder / sha256), sha256, name)


def no_pictures(_named: str) -> Media:
    """Where none can be sent. Raises QwenctlError."""
    raise QwenctlError("images cannot be sent here")


def unresolved_media(kind: Literal["image", "video"], named: str, at: int) -> Media:
    """What is only named so far; `found` finds it."""
    return Media(kind, named, "", named[:60], at)


def resolve_message_media(message: Message, take: Callable[[str], Media]) -> Message:
    """`message` with its pictures found. Raises QwenctlError."""
    media = (one if one.sha256 else replace(take(one.file), at=one.at) for one in message.media)
    return replace(message, media=tuple(media))


def data_uri(media: Media) -> str:
    """A picture by its content; an address as it is. Raises QwenctlError."""
    if re.match("data:|https?://", media.file, re.IGNORECASE):
        return media.file
    try:
        data = Path(media.file).expanduser().read_bytes()
    except OSError as error:
        raise QwenctlError(f"{media.file}: {(error.strerror or str(error)).lower()}", "", ExitCode.NO_INPUT) from error
    _kind(data[:16], media.name)
    kind = mimetypes.guess_type(media.file)[0] or ("image/png" if media.kind == "image" else "video/mp4")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def is_media(path: Path) -> bool:
    """Whether the file at `path` is a picture or a clip, by its first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return any(pattern.match(head) for pattern, _ in _KINDS)


def _kind(head: bytes, name: str) -> Literal["image", "video"]:
    found = next((kind for pattern, kind in _KINDS if pattern.match(head)), None)
    if found is None:
        raise QwenctlError(f"{name} is neither an image nor a video", f"supported: {_CAN_BE}", ExitCode.BAD_DATA)
    return found


def _of_data_uri(uri: str) -> bytes:
    found = _DATA_URI.fullmatch(uri)
    try:
        if found is None:
            raise ValueError
        data = unquote_to_bytes(found["data"])
        return base64.b64decode(data, validate=True) if found["base64"] else data
    except (ValueError, binascii.Error) as error:
        raise QwenctlError("the data URI is damaged", "data:image/png;base64,…", ExitCode.BAD_DATA) from error


def _fetched(address: str) -> bytes:
    """What lies at `address`. Raises QwenctlError."""
    import httpx2

    data = b""
    try:
        with (
            httpx2.Client(follow_redirects=True, max_redirects=_REDIRECTS, timeout=_SECONDS) as client,
            client.stream("GET", address) as answer,
        ):
            answer.raise_for_status()
            for part in answer.iter_bytes():
                data += part
                if len(data) > MAX_BYTES:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise QwenctlError(f"{address} cannot be downloaded: {error}", "", ExitCode.NETWORK) from error
    return data
