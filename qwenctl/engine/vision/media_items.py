"""What the model sees of pictures and clips: a `Media` of a message comes in, `MediaItem`s and their pixels go out.

A view is a picture, or two frames of a clip, with a place of its own in the prompt. Its tokens are no words: they have
negative numbers made of what the file holds and how it is looked at, so that to compare tokens compares pictures too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwenctl.engine.request_errors import MediaError, RequestError
from qwenctl.engine.vision.resize import FRAMES_OF_A_TOKEN, Size, frame_target_size, image_target_size
from qwenctl.engine.vision.video import Video, frame_pairs, probe_video, read_frames, select_frames
from qwenctl.protocol.media import Media, VisionSettings
from qwenctl.protocol.messages import RequestFailed

if TYPE_CHECKING:
    from qwenctl.engine.vision.images import Pixels

_MOST_KNOWN = 1024  # pictures and clips


@dataclass(frozen=True)
class MediaItem:
    """A picture, or the two `frames` of a clip that are seen at `seconds`; made `size`, `original` in the file."""

    media: Media
    original: Size
    size: Size
    frames: tuple[int, ...] = ()
    seconds: float = 0.0

    @property
    def n_tokens(self) -> int:
        """The tokens that it takes in a context."""
        return self.size.columns * self.size.rows

    @property
    def n_positions(self) -> int:
        """By how much the position of what follows is higher: its tokens lie in two dimensions (M-RoPE)."""
        return max(self.size.columns, self.size.rows)

    @property
    def cache_key(self) -> str:
        """The same for the same pixels, and for no others."""
        return f"{self.media.sha256} {self.frames} {self.size.width}x{self.size.height}"

    def placeholder_ids(self, tower: str) -> list[int]:
        """A number below zero for each of its tokens, as seen by the vision tower with the fingerprint `tower`."""
        digest = hashlib.shake_256(f"{tower} {self.cache_key}".encode()).digest(4 * self.n_tokens)
        numbers: list[int] = (-1 - (np.frombuffer(digest, "<u4") >> 1).astype(np.int64)).tolist()
        return numbers


class MediaCache:
    """Looks at the media of messages. What has been looked at is known from then on."""

    def __init__(self, settings: VisionSettings) -> None:
        self._settings = settings
        self._known: dict[tuple[str, str], tuple[MediaItem, ...]] = {}
        self._clips: dict[str, Video] = {}
        self._next: tuple[str, Iterator[Pixels]] | None = None  # the view that comes next in a clip being read

    def items(self, media: Media) -> tuple[MediaItem, ...]:
        """The views of `media`, in the order in which they are seen. Raises RequestFailure."""
        key = (media.kind, media.sha256)
        if key not in self._known:
            with _failing(media):
                self._known[key] = self._of_clip(media) if media.kind == "video" else (self._of_picture(media),)
            if len(self._known) > _MOST_KNOWN:
                kind, sha256 = next(iter(self._known))
                del self._known[kind, sha256]
                self._clips.pop(sha256, None)
        return tuple(replace(view, media=media) for view in self._known[key])

    def seconds(self, media: Media) -> float:
        """How long a clip is that was looked at; 0 for a picture."""
        clip = self._clips.get(media.sha256)
        return clip.seconds if clip is not None and media.kind == "video" else 0.0

    def pixels(self, view: MediaItem) -> list[Pixels]:
        """The picture, or the frames, of `view`. Raises RequestFailure."""
        from qwenctl.engine.vision.images import load_image, resize_image

        with _failing(view.media):
            if not view.frames:
                return [load_image(_read(view.media), view.size)]
            return [resize_image(frame, view.size) for frame in self._frames(view)]

    def _of_picture(self, media: Media) -> MediaItem:
        from qwenctl.engine.vision.images import (
            original_size,  # with Pillow, which a chat without pictures does not load
        )

        size = original_size(_read(media))
        least, most = self._settings.image_min_tokens, self._settings.image_max_tokens
        return MediaItem(media, size, image_target_size(size, least, most))

    def _of_clip(self, media: Media) -> tuple[MediaItem, ...]:
        path = Path(media.file)
        with path.open("rb") as file:
            _check(media, hashlib.file_digest(file, "sha256").hexdigest())
        clip = self._clips[media.sha256] = probe_video(path)
        numbers = select_frames(clip, self._settings.video_fps, self._settings.video_max_frames)
        size = frame_target_size(clip.size, max(len(numbers), FRAMES_OF_A_TOKEN), self._settings.image_max_tokens)
        return tuple(MediaItem(media, clip.size, size, pair, sum(pair) / 2 / clip.fps) for pair in frame_pairs(numbers))

    def _frames(self, view: MediaItem) -> list[Pixels]:
        """The frames of `view`, from where the last ones were read if they come next."""
        views = self.items(view.media)
        path, clip, at = Path(view.media.file), self._clips[view.media.sha256], views.index(view)
        if self._next is None or self._next[0] != view.cache_key:
            numbers = [number for later in views[at:] for number in later.frames]
            self._next = ("", read_frames(path, clip, numbers))
        frames = list(islice(self._next[1], FRAMES_OF_A_TOKEN))
        self._next = (views[at + 1].cache_key, self._next[1]) if at + 1 < len(views) else None
        return frames


def _read(media: Media) -> bytes:
    data = Path(media.file).read_bytes()
    _check(media, hashlib.sha256(data).hexdigest())
    return data


def _check(media: Media, sha256: str) -> None:
    if sha256 != media.sha256:
        raise MediaError("has changed since it was sent", "send it again")


@contextmanager
def _failing(media: Media) -> Iterator[None]:
    """Every way in which a file can fail as a RequestFailure that names it."""
    try:
        yield
    except MediaError as error:
        raise RequestError(RequestFailed("media", f"{media.name} {error.why}", error.hint)) from error
    except OSError as error:
        why = f"{media.name}: {(error.strerror or str(error)).lower()}"
        raise RequestError(RequestFailed("media", why, "send it again, or /undo")) from error
