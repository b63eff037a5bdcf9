"""Video files as frames: a path comes in, the selected frames go out one by one, decoded only as they are needed.

PyAV decodes them in the engine's process, where a crash is contained. Container formats that can refer to other files
or servers are not read. Frames are sampled as the models were trained (transformers' video processor of
models/qwen3_vl): evenly from the first frame to the last, at a given number per second. Where transformers divides a
frame's index by an average rate, its time stamp decides here: the two agree for a constant rate only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from qwenctl.engine.request_errors import MediaError
from qwenctl.engine.vision.resize import FRAMES_PER_ITEM, Size, check_size

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

    from qwenctl.engine.vision.images import Pixels

MIN_FRAMES = 4  # if the video has as many
_JITTER_UNITS = 1.5  # by which even time stamps differ when they are rounded to the unit
_ROUNDING = 1e-6  # of seconds that come from rounded time stamps
_BOXES = (b"mdat", b"moov", b"moof", b"free", b"skip", b"wide", b"uuid", b"udta", b"meta", b"sidx", b"styp", b"mfra")
_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
# The first bytes of each container format, their offset, and FFmpeg's name of the format.
_SIGNATURES = ((b"\x1a\x45\xdf\xa3", 0, "matroska"), (b"ftyp", 4, "mp4"), (b"AVI ", 8, "avi"))


@dataclass(frozen=True)
class Video:
    """What a file has of its video: the upright size, the time of each frame, and the length.

    `times` are seconds in the time of the file, ascending; the first may be late. `seconds` are from the first frame to
    the end of the last. `stamps` has the frames' presentation time stamps in the file's own unit, in the same order;
    it is empty if the file has none, and frames are told apart by their order.
    """

    size: Size
    times: tuple[float, ...]
    seconds: float
    is_even: bool = True  # all frames are shown for the same time
    stamps: tuple[int, ...] = ()

    @property
    def frames(self) -> int:
        """The number of frames."""
        return len(self.times)


def probe_video(path: Path) -> Video:
    """The properties of the video at `path`, whose first frame is decoded as a check.

    All packets are read, because headers may be wrong about the length, the number of frames and the rate. Raises
    OSError, and MediaError if the file is no video, damaged or cut off.
    """
    check_is_whole(path)
    with _open_video(path) as container:
        first = next(container.decode(container.streams.video[0]), None)
        if first is None:
            raise MediaError("has no frames", "download or create it again")
        size = _size(first)
    with _open_video(path) as container:
        stream = container.streams.video[0]
        packets = [
            (packet.pts, packet.duration)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard  # the last one is empty; edit lists hide others
        ]
        rate, unit, stated = stream.average_rate or stream.guessed_rate or Fraction(24), stream.time_base, stream.frames
    # An AVI file also counts the frames that its recorder dropped.
    counts = container.format.name != "avi"
    if counts and stated > len(packets) and not any(pts is None for pts, _ in packets):
        _check_frame_count(path, len(packets), stated)
    if unit is None or not packets or any(pts is None for pts, _ in packets):
        count = max(1, len(packets))
        return Video(size, tuple(number / float(rate) for number in range(count)), count / float(rate))
    stamps = tuple(sorted(pts for pts, _ in packets if pts is not None))
    last = max((duration or 0) for pts, duration in packets if pts == stamps[-1])
    return _timed(size, stamps, last, unit, rate)


def _timed(size: Size, stamps: tuple[int, ...], last: int, unit: Fraction, rate: Fraction) -> Video:
    """The video with frames at `stamps`, in `unit` seconds, of which the last is shown for `last`; `rate` is stated."""
    count, first = len(stamps), float(max(0, stamps[0]) * unit)
    if count == 1:
        return Video(size, (first,), float(last * unit) or 1 / float(rate), stamps=stamps)
    gaps = [after - before for before, after in pairwise(stamps)]
    mean = Fraction(stamps[-1] - stamps[0], count - 1)
    if mean > 0 and all(abs(gap - mean) <= _JITTER_UNITS for gap in gaps):
        # The stated rate is exact, where time stamps are rounded to milliseconds; unless it is wrong.
        exact = 1 / rate if abs(1 / rate - mean * unit) * count <= unit * _JITTER_UNITS else mean * unit
        times = tuple(first + float(number * exact) for number in range(count))
        return Video(size, times, float(count * exact), stamps=stamps)
    times = tuple(float(max(0, stamp) * unit) for stamp in stamps)
    end = float(last * unit) or float(sorted(gaps)[len(gaps) // 2] * unit)
    return Video(size, times, times[-1] - times[0] + end, is_even=False, stamps=stamps)


def _check_frame_count(path: Path, found: int, stated: int) -> None:
    """Raise MediaError if the file has fewer frames than it says, though nothing is hidden by an edit list."""
    with _open_video(path) as container:
        hidden = sum(1 for packet in container.demux(container.streams.video[0]) if packet.size and packet.is_discard)
    if found + hidden < stated:
        raise MediaError(
            f"is damaged: it ends before frame {found + hidden + 1:,} of {stated:,}", "download or create it again"
        )


def select_frames(video: Video, fps: float, max_frames: int) -> list[int]:
    """The indices of the frames to show the model: `fps` per second, at least 4 and at most `max_frames`.

    They are evenly spaced in time. Where the file has no frame for a long time, one stands for all of it.
    """
    wanted = min(max(int(video.seconds * fps + _ROUNDING), MIN_FRAMES), max_frames)
    if video.is_even:
        return [int(number) for number in np.linspace(0, video.frames - 1, min(wanted, video.frames)).round()]
    times = np.array(video.times)
    places = np.linspace(times[0], times[-1], wanted)
    after = np.searchsorted(times, places).clip(1, video.frames - 1)
    nearest = np.where(places - times[after - 1] <= times[after] - places, after - 1, after)
    chosen = set(nearest.tolist())
    least = min(MIN_FRAMES, max_frames, video.frames)
    chosen.update([number for number in range(video.frames) if number not in chosen][: max(0, least - len(chosen))])
    return sorted(chosen)


def frame_pairs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of frames, one for each item; an odd last frame is paired with itself."""
    padded = [*numbers, *numbers[-1:]] if len(numbers) % FRAMES_PER_ITEM else list(numbers)
    return list(zip(padded[::2], padded[1::2], strict=True))


def read_frames(path: Path, video: Video, numbers: Sequence[int]) -> Iterator[Pixels]:
    """Yield the frames with these ascending indices, each as [height, width, 3]. Raises MediaError or OSError."""
    remaining = iter(numbers)
    number = next(remaining, None)
    with _open_video(path) as container:
        for index, frame in enumerate(container.decode(container.streams.video[0])):
            if number is None:
                return
            if not _is_reached(video, number, index, frame.pts):
                continue
            pixels = _pixels(frame)
            while number is not None and _is_reached(video, number, index, frame.pts):
                yield pixels
                number = next(remaining, None)
    if number is not None:
        raise MediaError(
            f"is damaged: it ends before frame {number + 1:,} of {video.frames:,}", "download or create it again"
        )


def _is_reached(video: Video, number: int, index: int, stamp: int | None) -> bool:
    """Whether the `index`-th decoded frame, shown at `stamp`, is frame `number`, or the next that can be decoded."""
    if stamp is None or not video.stamps:
        return index >= number
    return stamp >= video.stamps[number]


def check_is_whole(path: Path) -> None:
    """Raise MediaError if the file is shorter than its container says, as after a broken download."""
    size = path.stat().st_size
    with path.open("rb") as file:
        stated = _stated_bytes(file, size)
    if stated > size:
        raise MediaError(f"is cut off: {size:,} of {stated:,} bytes are there", "download or create it again")


def _stated_bytes(file: BinaryIO, size: int) -> int:
    """The bytes that a container's outermost elements say it has; 0 if they do not say. `size` are there."""
    head = file.read(64)
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] == b"\x1a\x45\xdf\xa3":  # EBML: a header, then one segment
        return _end_of_elements(file, size)
    at = 0
    while at < size and head[4:8] == b"ftyp":  # ISO media: boxes, each with its size
        file.seek(at)
        box = file.read(16)
        length = int.from_bytes(box[:4], "big")
        if length == 1:
            length = int.from_bytes(box[8:16], "big")
        if length < 8 or (at + length > size and box[4:8] not in _BOXES):  # up to the end, or no box but something else
            return 0
        at += length
    return at if head[4:8] == b"ftyp" else 0


def _end_of_elements(file: BinaryIO, size: int) -> int:
    """Where the elements of an EBML file end by their own sizes; 0 if they cannot be followed to its end.

    Recorders of streams leave the sizes of the segment and its clusters open: these are entered.
    """
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(12)
        id_bytes = 9 - head[0].bit_length()
        if id_bytes > 4 or len(head) <= id_bytes:
            return 0
        end, length = _read_vint(head, id_bytes)
        if length == 0 and head[:id_bytes] not in (_SEGMENT, _CLUSTER) and head[end - 1] & 0x7F:
            return 0
        at += end + length
        if length and head[:id_bytes] == _SEGMENT:  # anything may be behind it
            return at
    return at


def _read_vint(data: bytes, at: int) -> tuple[int, int]:
    """The end and the value of EBML's integer of variable length at `at`; 0 if its value is unknown."""
    if at >= len(data) or not data[at]:
        return at, 0
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return at + length, 0 if value == (1 << 7 * length) - 1 else value


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
