"""Decoding image files: common formats, turned and resized like the reference; hostile files are refused."""

from __future__ import annotations

import json
import random
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from qwenctl.engine.request_errors import MediaError
from qwenctl.engine.vision.images import load_image, original_size
from qwenctl.engine.vision.resize import Size, frame_target_size, image_target_size
from qwenctl.engine.vision.video import Video, frame_pairs, select_frames
from tests.support.paths import DATA
from tests.support.pictures import encoded, header_of, picture

SIZES = json.loads((DATA / "expected" / "image_sizes.json").read_text())
LARGE = 64  # an image of this size is not resized


@pytest.mark.parametrize(("form", "worst"), [("PNG", 0), ("GIF", 40), ("AVIF", 40), ("WEBP", 40), ("JPEG", 40)])
def test_image_in_each_format_is_decoded(form: str, worst: int) -> None:
    image = picture(LARGE, LARGE)
    found = load_image(encoded(image, form, quality=95), Size(LARGE, LARGE))
    assert found.shape == (LARGE, LARGE, 3)
    assert np.abs(found.astype(int) - np.asarray(image)).max() <= worst


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_with_exif_orientation_is_turned_upright(orientation: int) -> None:
    """The same upright image, stored in each of the eight EXIF orientations."""
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}.get(orientation)  # fmt: skip
    upright = picture(96, 64)
    written = upright.transpose(Image.Transpose[undo]) if undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(written, "PNG", exif=exif)
    assert original_size(data) == Size(96, 64)
    assert np.array_equal(load_image(data, Size(96, 64)), np.asarray(upright))


def test_transparent_pixels_become_white() -> None:
    image = Image.new("RGBA", (LARGE, LARGE), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, LARGE, LARGE // 2))
    for form in ("PNG", "WEBP"):
        found = load_image(encoded(image, form, lossless=True), Size(LARGE, LARGE))
        assert found[0, 0].tolist() == [255, 0, 0]
        assert found[-1, -1].tolist() == [255, 255, 255]


def test_gray_of_16_bits_is_scaled_to_8_bits() -> None:
    gray = np.linspace(0, 65535, LARGE * LARGE).astype(np.uint16).reshape(LARGE, LARGE)
    found = load_image(encoded(Image.fromarray(gray), "PNG"), Size(LARGE, LARGE))
    assert np.abs(found[..., 0].astype(int) - gray // 257).max() <= 1


def test_animated_image_gives_first_frame() -> None:
    first, second = Image.new("RGB", (LARGE, LARGE), "red"), Image.new("RGB", (LARGE, LARGE), "blue")
    for form in ("GIF", "WEBP"):
        data = encoded(first, form, save_all=True, append_images=[second], lossless=True)
        assert load_image(data, Size(LARGE, LARGE))[5, 5].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_target_sizes_match_reference() -> None:
    for width, height, least, most, *wanted in SIZES["pictures"]:
        found = image_target_size(Size(width, height), least, most)
        assert [found.width, found.height] == wanted
    for width, height, frames, most, *wanted in SIZES["clips"]:
        found = frame_target_size(Size(width, height), frames, most)
        assert [found.width, found.height] == wanted


def even_video(frames: int, rate: float) -> Video:
    return Video(Size(1, 1), tuple(number / rate for number in range(frames)), frames / rate)


def test_selected_frames_match_reference() -> None:
    for total, rate, wanted, most, numbers in SIZES["frames"]:
        assert select_frames(even_video(total, rate), wanted, most) == numbers
    assert frame_pairs([0, 3, 7]) == [(0, 3), (7, 7)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not an image"),
        (b"GIF89a", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        (header_of(100_000, 100_000), r"is too large \(100,000 x 100,000 pixels\)"),
        (header_of(20_000, 20), r"is too narrow \(20,000 x 20 pixels\)"),
        (header_of(64, 64), "is damaged"),
    ],
)
def test_invalid_image_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(MediaError, match=why):
        load_image(data, Size(32, 32))


def test_image_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    for what in (original_size, lambda data: load_image(data, Size(32, 32))):
        with pytest.raises(MediaError, match="is too large"):
            what(header_of(100_000, 100_000))


def test_image_in_unsupported_format_is_not_opened() -> None:
    for form in ("TIFF", "BMP", "PPM", "ICO"):
        with pytest.raises(MediaError, match="is not an image"):
            original_size(encoded(picture(32, 32), form))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_cut_off_image_is_called_damaged_and_no_other_format(form: str, share: float) -> None:
    data = encoded(picture(64, 64), form)
    with pytest.raises(MediaError, match="damaged") as caught:
        load_image(data[: int(len(data) * share)], Size(32, 32))
    assert caught.value.hint == "download or create it again"


def test_damaged_image_is_decoded_or_refused() -> None:
    chance = random.Random(1)
    for form in ("PNG", "GIF", "WEBP", "JPEG"):
        whole = encoded(picture(48, 32), form)
        for _ in range(60):
            data = bytearray(whole[: chance.randrange(1, len(whole) + 1)])
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            with suppress(MediaError):
                assert load_image(bytes(data), Size(64, 32)).shape == (32, 64, 3)
