"""Media items, the units in which the model sees images and videos: `Media` come in, items and their pixels go out.

An item is an image, or two frames of a video, with its own place in the prompt. Its tokens are negative ids that hash
the file's content and the way it is resized, so that comparing tokens compares images, too.
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

from quantize.file_system import file_sha256
from qwenctl.engine.request_errors import MediaError, RequestError
from qwenctl.engine.vision.resize import FRAMES_PER_ITEM, Size, frame_target_size, image_target_size
from qwenctl.engine.vision.video import Video, frame_pairs, probe_video, read_frames, select_frames
from qwenctl.protocol.media import Media, VisionSettings
from qwenctl.protocol.messages import RequestFailed

if TYPE_CHECKING:
    from qwenctl.engine.vision.images import Pixels

_MAX_CACHED = 1024  # images and videos


@dataclass(frozen=True)
class MediaItem:
    """An image, or the two `frames` of a video around the time `seconds`.

    The frames or the image have the size `original` in the file and `size` after resizing, both in pixels.
    """

    media: Media
    original: Size
    size: Size
    frames: tuple[int, ...] = ()
    seconds: float = 0.0

    @property
    def n_tokens(self) -> int:
        """The number of tokens that the item takes in a context."""
        return self.size.columns * self.size.rows

    @property
    def n_positions(self) -> int:
        """The M-RoPE positions that the item advances the text after it: the longer side of its grid of tokens."""
        return max(self.size.columns, self.size.rows)

    @property
    def cache_key(self) -> str:
        """A string that is equal exactly for equal pixels."""
        return f"{self.media.sha256} {self.frames} {self.size.width}x{self.size.height}"

    def placeholder_ids(self, encoder: str) -> list[int]:
        """A negative id for each token of the item, as encoded by the vision encoder with the fingerprint `encoder`."""
        # 31 bits of hash for each token. Negative ids never collide with the vocabulary's, and equal ones mean equal
        # embeddings.
        digest = hashlib.shake_256(f"{encoder} {self.cache_key}".encode()).digest(4 * self.n_tokens)
        numbers: list[int] = (-1 - (np.frombuffer(digest, "<u4") >> 1).astype(np.int64)).tolist()
        return numbers


class MediaCache:
    """Turns the media of messages into items, and caches what is known of each file."""

    def __init__(self, settings: VisionSettings) -> None:
        self._settings = settings
        self._items: dict[tuple[str, str], tuple[MediaItem, ...]] = {}
        self._videos: dict[str, Video] = {}
        self._next: tuple[str, Iterator[Pixels]] | None = None  # key of an open video's next item; frames

    def items(self, media: Media) -> tuple[MediaItem, ...]:
        """The items of `media`, in order. Raises RequestError."""
        key = (media.kind, media.sha256)
        if key not in self._items:
            with _media_errors(media):
                self._items[key] = (
                    self._items_of_video(media) if media.kind == "video" else (self._item_of_image(media),)
                )
            if len(self._items) > _MAX_CACHED:
                kind, sha256 = next(iter(self._items))
                del self._items[kind, sha256]
                self._videos.pop(sha256, None)
        return tuple(replace(item, media=media) for item in self._items[key])

    def seconds(self, media: Media) -> float:
        """The length of a video whose items are cached, in seconds; 0 for an image."""
        video = self._videos.get(media.sha256)
        return video.seconds if video is not None and media.kind == "video" else 0.0

    def pixels(self, item: MediaItem) -> list[Pixels]:
        """The image, or the two frames, of `item`, resized. Raises RequestError."""
        from qwenctl.engine.vision.images import load_image, resize_image

        with _media_errors(item.media):
            if not item.frames:
                return [load_image(_read(item.media), item.size)]
            return [resize_image(frame, item.size) for frame in self._frames(item)]

    def _item_of_image(self, media: Media) -> MediaItem:
        # Imported here, because it imports Pillow, which a chat without images does not need.
        from qwenctl.engine.vision.images import original_size

        size = original_size(_read(media))
        min_tokens, max_tokens = self._settings.image_min_tokens, self._settings.image_max_tokens
        return MediaItem(media, size, image_target_size(size, min_tokens, max_tokens))

    def _items_of_video(self, media: Media) -> tuple[MediaItem, ...]:
        path = Path(media.file)
        _check_hash(media, file_sha256(path))
        video = self._videos[media.sha256] = probe_video(path)
        numbers = select_frames(video, self._settings.video_fps, self._settings.video_max_frames)
        size = frame_target_size(video.size, max(len(numbers), FRAMES_PER_ITEM), self._settings.image_max_tokens)
        return tuple(
            MediaItem(media, video.size, size, pair, sum(video.times[number] for number in pair) / len(pair))
            for pair in frame_pairs(numbers)
        )

    def _frames(self, item: MediaItem) -> list[Pixels]:
        """The frames of an item. Items are usually read in order: then decoding continues where the last call ended."""
        items = self.items(item.media)
        path, video, index = Path(item.media.file), self._videos[item.media.sha256], items.index(item)
        # Decoding cannot start in the middle of a video, so seek by decoding from the start, once, for this and all
        # later items.
        if self._next is None or self._next[0] != item.cache_key:
            numbers = [number for later in items[index:] for number in later.frames]
            self._next = ("", read_frames(path, video, numbers))
        frames = list(islice(self._next[1], FRAMES_PER_ITEM))
        self._next = (items[index + 1].cache_key, self._next[1]) if index + 1 < len(items) else None
        return frames


def _read(media: Media) -> bytes:
    data = Path(media.file).read_bytes()
    _check_hash(media, hashlib.sha256(data).hexdigest())
    return data


def _check_hash(media: Media, sha256: str) -> None:
    if sha256 != media.sha256:
        raise MediaError("has changed since it was sent", "send it again")


@contextmanager
def _media_errors(media: Media) -> Iterator[None]:
    """Turn every way in which a media file can fail into a RequestError with its name."""
    try:
        yield
    except MediaError as error:
        raise RequestError(RequestFailed("media", f"{media.name} {error.why}", error.hint)) from error
    except OSError as error:
        why = f"{media.name}: {(error.strerror or str(error)).lower()}"
        raise RequestError(RequestFailed("media", why, "send it again, or /undo")) from error
