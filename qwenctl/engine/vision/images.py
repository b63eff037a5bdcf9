"""Picture files as pixels: bytes that nobody vouches for come in, RGB goes out.

Pillow decodes, in the engine's process, where a crash is contained; only the formats that people have, and no picture
so large that it is an attack. Turned as its EXIF data say, transparent parts white, of moving pictures the first.
"""

from __future__ import annotations

import importlib
import struct
import zlib
from functools import cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, features

from qwenctl.engine.request_errors import MediaError
from qwenctl.engine.vision.resize import Size, check_size

Pixels = npt.NDArray[np.uint8]  # [height, width, 3]
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_ORIENTATION, _LIES_ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # of EXIF
# What Pillow raises for broken files, all of it documented nowhere.
_BROKEN = (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, EOFError,
           MemoryError, struct.error, zlib.error)  # fmt: skip


def original_size(data: bytes) -> Size:
    """The size of the picture in a file, turned upright. Raises BadPicture."""
    with _opened(data) as image:
        return _upright(image)


def load_image(data: bytes, size: Size) -> Pixels:
    """The picture in a file, made `size`. Raises BadPicture."""
    with _opened(data) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return resize_image(np.asarray(_rgb(upright)), size)
        except _BROKEN as error:
            raise MediaError(f"is damaged ({_reason(error)})", "download or create it again") from error


def resize_image(picture: Pixels, size: Size) -> Pixels:
    """Made `size`, by the filter that the models were trained with."""
    if picture.shape[:2] == (size.height, size.width):
        return np.ascontiguousarray(picture)
    return np.array(Image.fromarray(picture).resize((size.width, size.height), Image.Resampling.BICUBIC))


def _opened(data: bytes) -> Image.Image:
    """Its header read, no more; its size checked before memory is taken for it."""
    try:
        Image.MAX_IMAGE_PIXELS = None  # Pillow's check only warns of what ours refuses
        image = Image.open(BytesIO(data), formats=_formats())
    except _BROKEN as error:
        if data[4:8] == b"ftyp" and not _reads_heif():
            raise MediaError("is a HEIC image, which needs pillow-heif", "pip install pillow-heif") from error
        raise MediaError("is not an image", f"{', '.join(_formats())} are supported") from error
    try:
        check_size(Size(image.width, image.height))  # before EXIF is asked for: of a PNG, Pillow would decode all
    except MediaError:
        image.close()
        raise
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Which can be read here: AVIF depends on how Pillow was built, HEIC on another package."""
    avif = ("AVIF",) if features.check("avif") else ()
    return (*_FORMATS, *avif, *(("HEIF",) if _reads_heif() else ()))


@cache
def _reads_heif() -> bool:
    """Whether HEIC can be read: pillow-heif is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _upright(image: Image.Image) -> Size:
    try:
        turned = image.getexif().get(_ORIENTATION) in _LIES_ON_ITS_SIDE
    except _BROKEN:
        turned = False
    return Size(image.height, image.width) if turned else Size(image.width, image.height)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of gray
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colors = image.convert("RGBA")
        white = Image.new("RGBA", colors.size, "white")
        return Image.alpha_composite(white, colors).convert("RGB")
    return image.convert("RGB")


def _reason(error: BaseException) -> str:
    """What a library says, on one short line."""
    return " ".join(str(error).split())[:120] or type(error).__name__
