"""Decoding video files: the requested frames, one at a time, in little memory; other files are refused."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from qwenctl.engine.request_errors import MediaError
from qwenctl.engine.vision.resize import Size
from qwenctl.engine.vision.video import Video, check_is_whole, probe_video, read_frames, select_frames
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
    assert (found.size, found.frames, found.seconds) == (Size(64, 48), 12, 3.0)
    assert found.times == tuple(number / 4 for number in range(12))


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


CONTAINERS = [("a.mp4", "mpeg4", "yuv420p"), ("a.mov", "libx264", "yuv420p"), ("a.avi", "mpeg4", "yuv420p"),
              ("a.webm", "libvpx-vp9", "yuv420p"), ("a.mkv", "ffv1", "bgr0")]  # fmt: skip


@pytest.mark.parametrize(("name", "codec", "pixels"), CONTAINERS)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_truncated_video_is_refused_as_such(name: str, codec: str, pixels: str, share: float, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / name, [picture(64, 64)] * 2, each=12, codec=codec, pixels=pixels)
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match="is cut off") as caught:
        probe_video(whole)
    assert f"of {len(data):,} bytes" in caught.value.why or name.endswith(("mp4", "mov"))


SEGMENT = b"\x18\x53\x80\x67"


def as_a_stream(data: bytes) -> bytes:
    """A Matroska file as recorders of streams write it: without the size of its segment."""
    at = data.index(SEGMENT) + len(SEGMENT)
    return data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :]


@pytest.mark.parametrize("share", [0.4, 0.6, 0.95, 1.0])
def test_truncated_recording_of_a_stream_is_refused_as_such(share: float, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", [picture(64, 64)] * 2, each=12)
    data = as_a_stream(path.read_bytes())
    path.write_bytes(data[: int(len(data) * share)])
    if share == 1.0:
        assert probe_video(path).frames == 24
        return
    with pytest.raises(MediaError, match="is cut off"):
        probe_video(path)


@pytest.mark.parametrize("gap", [10, 100, 1000])
def test_avi_file_in_which_frames_were_dropped_is_read(gap: int, tmp_path: Path) -> None:
    path = write_timed(tmp_path / "a.avi", [gap * number for number in range(12)], rate=1000)
    assert probe_video(path).frames == 12


@pytest.mark.parametrize(("name", "codec", "pixels"), CONTAINERS)
def test_whole_video_with_something_behind_it_is_read(name: str, codec: str, pixels: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, [picture(64, 64)] * 2, each=12, codec=codec, pixels=pixels)
    check_is_whole(path)
    path.write_bytes(path.read_bytes() + b"AAAABBBBCCCCDDDD")
    assert probe_video(path).frames == 24


def test_frame_that_is_missing_is_named(clip: Path) -> None:
    found = probe_video(clip)
    more = replace(found, times=(*found.times, 3.0), stamps=(*found.stamps, 3000))
    frames = read_frames(clip, more, range(13))
    assert len(list(islice(frames, 12))) == 12
    with pytest.raises(MediaError, match="it ends before frame 13 of 13"):
        next(frames)


# ------------------------------------------------------------------ time stamps


def write_timed(path: Path, milliseconds: Sequence[int], *, rate: int = 25, codec: str = "mpeg4") -> Path:
    """A video whose frame `i`, in one shade of gray, is shown at `milliseconds[i]`; its header states `rate`."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, stamp in enumerate(milliseconds):
            frame = av.VideoFrame.from_image(picture(64, 48).point(lambda _, number=number: shade(number)))
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def chosen_times(path: Path, fps: float = 2.0, max_frames: int = 768) -> list[float]:
    """The times, in seconds, of the frames that are chosen; asserts that these are the frames that are decoded."""
    found = probe_video(path)
    numbers = select_frames(found, fps, max_frames)
    shades = [int(frame.mean()) for frame in read_frames(path, found, numbers)]
    assert shades == pytest.approx([shade(number) for number in numbers], abs=4)
    return [round(found.times[number], 3) for number in numbers]


NAMES = ("t.mp4", "t.mkv", "t.mov")


@pytest.mark.parametrize("name", NAMES)
def test_frames_of_a_variable_rate_are_chosen_by_time(name: str, tmp_path: Path) -> None:
    """Ten frames in the first second, then one each second: half of the frames are not half of the time."""
    path = write_timed(tmp_path / name, [*range(0, 1000, 100), *range(1000, 9000, 1000)])
    assert chosen_times(path, 1.0) == [0, 1, 2, 3, 5, 6, 7, 8]  # eight, at 8/7 s; by index most were of the first one
    assert probe_video(path).seconds == pytest.approx(9, abs=1)


@pytest.mark.parametrize("name", NAMES)
def test_gap_is_told_by_the_times_around_it(name: str, tmp_path: Path) -> None:
    path = write_timed(tmp_path / name, [0, 500, 1000, 1500, 61_500, 62_000])
    assert chosen_times(path) == [0, 0.5, 1, 1.5, 61.5, 62]
    assert chosen_times(path, 2.0, 4) == [0, 0.5, 1.5, 62] or chosen_times(path, 2.0, 4)[0::3] == [0, 62]


@pytest.mark.parametrize("name", NAMES)
def test_late_first_frame_is_told_by_its_time(name: str, tmp_path: Path) -> None:
    path = write_timed(tmp_path / name, range(5000, 8000, 250))
    assert chosen_times(path)[0] == 5
    assert chosen_times(path)[-1] == 7.75
    assert probe_video(path).seconds == pytest.approx(3)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_rate_in_the_header_changes_nothing(name: str, tmp_path: Path) -> None:
    for rate in (5, 25, 100):
        path = write_timed(tmp_path / name, range(0, 4000, 200), rate=rate)
        found = probe_video(path)
        assert (found.times, found.seconds) == (pytest.approx([number / 5 for number in range(20)]), pytest.approx(4))


def test_wrong_duration_in_the_header_changes_nothing(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "t.mkv", range(0, 4000, 200))
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Duration, a double
    path.write_bytes(data[:at] + struct.pack(">d", 3_600_000.0) + data[at + 8 :])
    assert probe_video(path).seconds == pytest.approx(4)
    assert chosen_times(path)[-1] == 3.8


@pytest.mark.parametrize("rate", [24, 30, 60, 25])
def test_even_rate_is_exact_though_the_file_rounds_to_milliseconds(rate: int, tmp_path: Path) -> None:
    shades = [picture(64, 48)] * 2
    found = probe_video(write_clip(tmp_path / "a.mkv", shades, each=rate, rate=rate))
    assert (found.is_even, found.seconds) == (True, pytest.approx(2, abs=1e-9))
    assert select_frames(found, 2.0, 768) == [0, *(round(n * (2 * rate - 1) / 3) for n in (1, 2)), 2 * rate - 1]


@examples(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 100_000), min_size=1, max_size=60), st.integers(0, 10_000), st.floats(0.1, 60),
    st.integers(1, 40),
)  # fmt: skip
def test_chosen_frames_are_ascending_and_near_to_even_times(gaps: list[int], first: int, fps: float, most: int) -> None:
    times = tuple(stamp / 1000 for stamp in accumulate(gaps, initial=first))
    video = Video(Size(1, 1), times, times[-1] - times[0] + 0.1, is_even=False)
    numbers = select_frames(video, fps, most)
    assert numbers == sorted(set(numbers))
    assert min(4, most, video.frames) <= len(numbers) <= most
    if most > 1:
        assert (numbers[0], numbers[-1]) == (0, video.frames - 1)
        wanted = min(max(int(video.seconds * fps + 1e-6), 4), most)
        for place in np.linspace(times[0], times[-1], wanted):
            nearest = min(abs(place - time) for time in times)
            assert min(abs(place - times[number]) for number in numbers) == pytest.approx(nearest)
