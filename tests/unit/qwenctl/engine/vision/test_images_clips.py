"""Decoding video files: the requested frames, one at a time, in little memory; other files are refused."""

from __future__ import annotations

import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from qwenctl.engine.request_errors import MediaError
from qwenctl.engine.vision.resize import Size
from qwenctl.engine.vision.video import probe_video, read_frames
from tests.support.pictures import picture, write_clip


def shade(number: int) -> int:
    return 20 + 10 * number


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames at 4 fps, each in one shade of gray."""
    shades = [picture(64, 48).point(lambda _, number=number: shade(number)) for number in range(12)]
    return write_clip(tmp_path_factory.mktemp("clips") / "gray.mkv", shades)


def test_video_probe_reports_size_frames_rate_and_length(clip: Path) -> None:
    found = probe_video(clip)
    assert (found.size, found.frames, found.fps, found.seconds) == (Size(64, 48), 12, 4.0, 3.0)


def test_video_frames_come_in_requested_order(clip: Path) -> None:
    wanted = [0, 1, 1, 5, 11, 11]
    frames = list(read_frames(clip, probe_video(clip), wanted))
    assert [frame[0, 0].tolist() for frame in frames] == [[shade(number)] * 3 for number in wanted]


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.mp4", "mpeg4", "yuv420p"), ("a.mov", "mpeg4", "yuv420p"), ("a.avi", "mpeg4", "yuv420p"),
     ("a.webm", "libvpx-vp9", "yuv420p"), ("a.mkv", "ffv1", "bgr0"), ("h.mp4", "libx264", "yuv420p")],
)  # fmt: skip
def test_video_in_each_container_is_decoded(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    images = [picture(64, 64), picture(64, 64).rotate(180)]
    path = write_clip(tmp_path / name, images, each=4, codec=codec, pixels=pixels)
    frames = list(read_frames(path, probe_video(path), [0, 7]))
    for frame, image in zip(frames, images, strict=True):
        assert np.abs(frame.astype(int) - np.asarray(image)).mean() < 12


def test_long_video_is_never_held_in_memory(tmp_path: Path) -> None:
    """300 frames of 200 KB each: decoded all at once, they would take 60 MB."""
    path = write_clip(tmp_path / "long.mp4", [picture(320, 208)], each=300, codec="mpeg4", pixels="yuv420p")
    found = probe_video(path)
    tracemalloc.start()
    frames = read_frames(path, found, range(0, 300, 2))
    assert sum(1 for _ in frames) == 150
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 320 * 208 * 3


def test_video_with_rotation_is_turned_upright(tmp_path: Path) -> None:
    """Phones store frames sideways, with a rotation matrix beside them."""
    import av

    path = tmp_path / "held.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_image(picture(64, 48))
        for _ in range(4):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    plain = bytes.fromhex("00010000 00000000 00000000 00000000 00010000 00000000 00000000 00000000 40000000")
    turned = bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000 00000000 00000000 00000000 40000000")
    at = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + len(plain) :])
    assert probe_video(path).size == Size(48, 64)
    [seen] = read_frames(path, probe_video(path), [0])
    upright = np.asarray(picture(64, 48).rotate(-90, expand=True))
    assert np.abs(seen.astype(int) - upright).mean() < 12


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "is not a video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is not a video"),
        (b"", "is not a video"),
        (b"\0\0\0\x18ftypmp42" + b"\0" * 400, "is damaged"),
        (b"\x1a\x45\xdf\xa3" + b"\xff" * 400, "is damaged"),
    ],
)
def test_invalid_or_damaged_video_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=why):
        probe_video(path)


def test_truncated_video_error_names_missing_frame(clip: Path, tmp_path: Path) -> None:
    whole = write_clip(
        tmp_path / "whole.mp4", [picture(64, 64), picture(64, 64)], each=12, codec="mpeg4", pixels="yuv420p"
    )
    found = probe_video(whole)
    frames = read_frames(clip, found, range(found.frames))  # as if its second half were missing
    assert len(list(islice(frames, 12))) == 12
    with pytest.raises(MediaError, match="it ends before frame 13 of 24"):
        next(frames)
