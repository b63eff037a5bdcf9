"""Image files as pixels: untrusted bytes come in, RGB goes out.

Pillow decodes them in the engine's process, where a crash is contained; only common formats are read, and no image
large enough to be a decompression bomb. Images are turned upright by their EXIF data, transparent parts become white,
and of an animation the first frame is used.
"""

from __future__ import annotations

import importlib
import re
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
# How files in these formats begin, those of AVIF included.
_STARTS = re.compile(rb"\x89PNG\r\n|\xff\xd8\xff|RIFF....WEBP|GIF8[79]a|....ftypavi[fs]", re.DOTALL)
_MORE_THAN_A_START = 32  # bytes
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
# What Pillow raises for broken files; its documentation does not say.
_BROKEN = (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, EOFError,
           MemoryError, struct.error, zlib.error)  # fmt: skip


def original_size(data: bytes) -> Size:
    """The size of the image in a file, turned upright. Raises MediaError."""
    with _open_image(data) as image:
        return _upright(image)


def load_image(data: bytes, size: Size) -> Pixels:
    """The image in a file, resized to `size`, as [height, width, 3]. Raises MediaError."""
    with _open_image(data) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return resize_image(np.asarray(_rgb(upright)), size)
        except _BROKEN as error:
            raise MediaError(f"is damaged ({_reason(error)})", "download or create it again") from error


def resize_image(image: Pixels, size: Size) -> Pixels:
    """Resize to `size`, with the bicubic filter that the models were trained with."""
    if image.shape[:2] == (size.height, size.width):
        return np.ascontiguousarray(image)
    return np.array(Image.fromarray(image).resize((size.width, size.height), Image.Resampling.BICUBIC))


def _open_image(data: bytes) -> Image.Image:
    """Open the image, read only its header, and check its size before memory is allocated for it. Raises MediaError."""
    try:
        Image.MAX_IMAGE_PIXELS = None  # Pillow only warns where check_size raises
        image = Image.open(BytesIO(data), formats=_formats())
    except _BROKEN as error:
        if len(data) > _MORE_THAN_A_START and _STARTS.match(data):
            raise MediaError("is a damaged image", "download or create it again") from error
        if data[4:8] == b"ftyp" and not _reads_heif():
            raise MediaError("is a HEIC image, which needs pillow-heif", "pip install pillow-heif") from error
        raise MediaError("is not an image", f"{', '.join(_formats())} are supported") from error
    try:
        check_size(Size(image.width, image.height))  # before reading EXIF, for which Pillow decodes a whole PNG
    except MediaError:
        image.close()
        raise
    return image


@cache
def _formats() -> tuple[str, ...]:
    """The readable formats: AVIF depends on Pillow's build, HEIF on another package."""
    avif = ("AVIF",) if features.check("avif") else ()
    return (*_FORMATS, *avif, *(("HEIF",) if _reads_heif() else ()))


@cache
def _reads_heif() -> bool:
    """Whether HEIC can be read, that is, pillow-heif is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _upright(image: Image.Image) -> Size:
    """The size of an image after its EXIF rotation."""
    try:
        turned = image.getexif().get(_ORIENTATION) in _SIDEWAYS
    except _BROKEN:
        turned = False
    return Size(image.height, image.width) if turned else Size(image.width, image.height)


def _rgb(image: Image.Image) -> Image.Image:
    """Any image mode as RGB, transparent parts as white."""
    if image.mode.startswith("I"):  # 16-bit gray, scaled here because Pillow's conversion may clip it
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colors = image.convert("RGBA")
        white = Image.new("RGBA", colors.size, "white")
        return Image.alpha_composite(white, colors).convert("RGB")
    return image.convert("RGB")


def _reason(error: BaseException) -> str:
    """A library's error message, on one short line."""
    return " ".join(str(error).split())[:120] or type(error).__name__
