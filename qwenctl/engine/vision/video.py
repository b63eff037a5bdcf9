"""Video files as frames: a path comes in, the chosen frames go out one by one, never more of them than are asked for.

PyAV decodes, in the engine's process, where a crash is contained. A container that could name other files or servers
is not read. Frames are chosen and their times told as the models were trained (transformers' video processor of
models/qwen3_vl): evenly, from the first to the last, so many a second.
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
from qwenctl.engine.vision.resize import FRAMES_OF_A_TOKEN, Size, check_size

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

    from qwenctl.engine.vision.images import Pixels

LEAST_FRAMES = 4  # of a clip that has so many
_HEADS = ((b"\x1a\x45\xdf\xa3", 0, "matroska"), (b"ftyp", 4, "mp4"), (b"AVI ", 8, "avi"))


@dataclass(frozen=True)
class Video:
    """What a file says of its video: the size upright, the number of frames and how many a second."""

    size: Size
    frames: int
    fps: float
    has_frame_count: bool  # the file tells the number; otherwise it follows from the length

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.fps


def probe_video(path: Path) -> Video:
    """What `path` holds; its first frame is decoded to see that it can be. Raises BadPicture or OSError."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        first = next(container.decode(stream), None)
        if first is None:
            raise MediaError("has no frames", "download or create it again")
        rate = float(stream.average_rate or stream.guessed_rate or 24)
        ends = (float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0) or (
            container.duration / 1e6 if container.duration else 0.0
        )
        frames = stream.frames or max(1, math.floor(ends * rate + 0.5))
        return Video(_size(first), frames, rate, bool(stream.frames))


def select_frames(clip: Video, rate: float, most: int) -> list[int]:
    """The numbers of the frames that are looked at: `rate` a second, at least 4 and at most `most`."""
    wanted = min(max(int(clip.frames / clip.fps * rate), LEAST_FRAMES), most, clip.frames)
    return [int(number) for number in np.linspace(0, clip.frames - 1, wanted).round()]


def frame_pairs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Two frames for each token; of an odd number the last counts twice."""
    whole = [*numbers, *numbers[-1:]] if len(numbers) % FRAMES_OF_A_TOKEN else list(numbers)
    return list(zip(whole[::2], whole[1::2], strict=True))


def read_frames(path: Path, clip: Video, numbers: Sequence[int]) -> Iterator[Pixels]:
    """The frames with these rising numbers, one after the other. Raises BadPicture or OSError."""
    wanted = iter(numbers)
    number = next(wanted, None)
    last: Pixels | None = None
    with _opened(path) as container:
        for at, frame in enumerate(container.decode(container.streams.video[0])):
            if number is None:
                return
            if at < number:
                continue
            last = _pixels(frame)
            while number == at:
                yield last
                number = next(wanted, None)
    while number is not None and last is not None and not clip.has_frame_count:
        yield last  # the length was a little less than it seemed
        number = next(wanted, None)
    if number is not None:
        raise MediaError(
            f"is damaged: it ends before frame {number + 1:,} of {clip.frames:,}", "download or create it again"
        )


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """The file, opened as what its first bytes say and as nothing else, and every failure of FFmpeg as BadPicture."""
    if importlib.util.find_spec("av") is None:
        raise MediaError("is a video, which needs PyAV", "pip install av")
    import av

    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        kind = next((kind for magic, at, kind in _HEADS if head[at : at + len(magic)] == magic), None)
        if kind is None:
            raise MediaError("is not a video", "MP4, MOV, MKV, WebM and AVI are supported")
        try:
            with av.open(file, "r", format=kind, metadata_errors="replace") as container:
                if not container.streams.video:
                    raise MediaError("has no video, only audio", "give an image or a video")
                container.streams.video[0].thread_type = "AUTO"
                yield container
        except (av.FFmpegError, ValueError, EOFError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise MediaError(f"is damaged ({str(why).lower()})", "download or create it again") from error


def _size(frame: VideoFrame) -> Size:
    size = Size(frame.height, frame.width) if frame.rotation % 180 else Size(frame.width, frame.height)
    check_size(size)
    return size


def _pixels(frame: VideoFrame) -> Pixels:
    """Upright: a telephone writes how it was held beside the frames."""
    _size(frame)
    picture = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(picture, frame.rotation // 90)).astype(np.uint8, copy=False)
