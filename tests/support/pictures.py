"""Images and videos for tests."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.parsers import expat

import av
import numpy as np
from PIL import Image

from qwenctl.protocol.media import Media
from tests.support.paths import DATA

QUESTIONS = [
    one for line in (DATA / "questions.jsonl").read_text().splitlines() if "image" in (one := json.loads(line))
]
RED, GREEN, BLACK = (DATA / "pictures" / name for name in ("12.png", "06.png", "07.png"))  # triangle, square, square
GREEDY = ("--temp", "0", "--presence-penalty", "0", "-t", "1", "-c", "2048")


def media(path: Path, kind: Any = "image", **fields: Any) -> Media:
    """A file as the media part of a message."""
    return Media(kind, str(path), hashlib.sha256(path.read_bytes()).hexdigest(), path.name, **fields)


def picture(width: int, height: int) -> Image.Image:
    """An RGB image whose corners all have different colors."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), np.full_like(x, 90)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of an image file in format `form`."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write_clip(
    path: Path,
    pictures: Sequence[Image.Image | Path],
    *,
    each: int = 1,
    rate: int = 4,
    codec: str = "ffv1",
    pixels: str = "bgr0",
) -> Path:
    """Write a video that shows each image for `each` frames at `rate` frames a second; FFV1 is lossless."""
    images = [Image.open(one).convert("RGB") if isinstance(one, Path) else one for one in pictures]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = *images[0].size, pixels
        for image in images:
            for _ in range(each):
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def header_of(width: int, height: int) -> bytes:
    """A PNG file of a few bytes whose header claims this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def uri(path: Path) -> str:
    """The data URI of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def is_svg(text: str) -> bool:
    """Whether `text` is an SVG image. Raises ExpatError if it is not well-formed XML."""
    expat.ParserCreate().Parse(text, True)
    return text.startswith("<svg ")
