"""Video files as frames: a path comes in, the selected frames go out one by one, decoded only as they are needed.

PyAV decodes them in the engine's process, where a crash is contained. Container formats that can refer to other files
or servers are not read. Frames are sampled, and their times computed, as the models were trained (transformers' video
processor of models/qwen3_vl): evenly from the first frame to the last, at a given number per second.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwenctl.engine.request_errors import MediaError
from qwenctl.engine.vision.resize import FRAMES_PER_ITEM, Size, check_size

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

    from qwenctl.engine.vision.images import Pixels

MIN_FRAMES = 4  # if the video has as many
# The first bytes of each container format, their offset, and FFmpeg's name of the format.
_SIGNATURES = ((b"\x1a\x45\xdf\xa3", 0, "matroska"), (b"ftyp", 4, "mp4"), (b"AVI ", 8, "avi"))


@dataclass(frozen=True)
class Video:
    """What a file says of its video: the upright size, the number of frames, and the frames per second."""

    size: Size
    frames: int
    fps: float
    has_frame_count: bool  # the file states the number of frames; otherwise it is computed from the length

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.frames / self.fps


def probe_video(path: Path) -> Video:
    """The properties of the video at `path`, whose first frame is decoded as a check. Raises MediaError or OSError."""
    with _open_video(path) as container:
        stream = container.streams.video[0]
        first = next(container.decode(stream), None)
        if first is None:
            raise MediaError("has no frames", "download or create it again")
        rate = float(stream.average_rate or stream.guessed_rate or 24)
        seconds = (float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0) or (
            container.duration / 1e6 if container.duration else 0.0
        )
        frames = stream.frames or max(1, math.floor(seconds * rate + 0.5))
        return Video(_size(first), frames, rate, bool(stream.frames))


def select_frames(video: Video, fps: float, max_frames: int) -> list[int]:
    """The indices of the frames to show the model: `fps` per second, at least 4 and at most `max_frames`."""
    count = min(max(int(video.frames / video.fps * fps), MIN_FRAMES), max_frames, video.frames)
    return [int(number) for number in np.linspace(0, video.frames - 1, count).round()]


def frame_pairs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of frames, one for each item; an odd last frame is paired with itself."""
    padded = [*numbers, *numbers[-1:]] if len(numbers) % FRAMES_PER_ITEM else list(numbers)
    return list(zip(padded[::2], padded[1::2], strict=True))


def read_frames(path: Path, video: Video, numbers: Sequence[int]) -> Iterator[Pixels]:
    """Yield the frames with these ascending indices, each as [height, width, 3]. Raises MediaError or OSError."""
    remaining = iter(numbers)
    number = next(remaining, None)
    last: Pixels | None = None
    with _open_video(path) as container:
        for index, frame in enumerate(container.decode(container.streams.video[0])):
            if number is None:
                return
            if index < number:
                continue
            last = _pixels(frame)
            while number == index:
                yield last
                number = next(remaining, None)
    while number is not None and last is not None and not video.has_frame_count:
        yield last  # the computed number of frames was slightly too high
        number = next(remaining, None)
    if number is not None:
        raise MediaError(
            f"is damaged: it ends before frame {number + 1:,} of {video.frames:,}", "download or create it again"
        )


@contextmanager
def _open_video(path: Path) -> Iterator[InputContainer]:
    """Open the file as the format that its first bytes show, and no other; turn FFmpeg's errors into MediaError."""
    if importlib.util.find_spec("av") is None:
        raise MediaError("is a video, which needs PyAV", "pip install av")
    import av

    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        container_format = next(
            (name for magic, offset, name in _SIGNATURES if head[offset : offset + len(magic)] == magic), None
        )
        if container_format is None:
            raise MediaError("is not a video", "MP4, MOV, MKV, WebM and AVI are supported")
        try:
            with av.open(file, "r", format=container_format, metadata_errors="replace") as container:
                if not container.streams.video:
                    raise MediaError("has no video, only audio", "give an image or a video")
                container.streams.video[0].thread_type = "AUTO"
                yield container
        except (av.FFmpegError, ValueError, EOFError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise MediaError(f"is damaged ({str(why).lower()})", "download or create it again") from error


def _size(frame: VideoFrame) -> Size:
    """The upright size of a frame. Raises MediaError if it is too large or too narrow."""
    size = Size(frame.height, frame.width) if frame.rotation % 180 else Size(frame.width, frame.height)
    check_size(size)
    return size


def _pixels(frame: VideoFrame) -> Pixels:
    """A frame as RGB, turned upright by the rotation that phones store with it."""
    _size(frame)
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, frame.rotation // 90)).astype(np.uint8, copy=False)
