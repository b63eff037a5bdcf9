"""The files that charts are written to: SVG, and PNG with cairosvg.

Bytes and a path come in; a file is written beside its place and renamed. A file that exists is replaced only if this
program drew it: a chart is drawn again and again under one name, and no other file may be lost to it.
"""

from __future__ import annotations

import importlib
import re
import stat
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

from qwenctl.charts.svg import MARK
from qwenctl.errors import ExitCode, QwenctlError, quote
from qwenctl.files.atomic import atomic_write

_PNG_LIBRARY = "cairosvg"
# The first lines of every chart of this program; those of its first versions have no mark.
_OWN_SVG = re.compile(
    rb'<svg xmlns="http://www\.w3\.org/2000/svg" width="[\d.]+" height="[\d.]+" viewBox="[\d. ]+" '
    rb'font-family="sans-serif" font-size="13">\n(?:%s\n)?<rect ' % re.escape(MARK.encode())
)
_PNG_START, _PNG_HEADER_END = b"\x89PNG\r\n\x1a\n", 33  # the signature and the chunk IHDR, which comes first
_PNG_MARK = b"Software\0qwenctl"


def check_image_name(path: Path) -> None:
    """Raise QwenctlError if `path` is neither .svg nor .png, or is a PNG, which needs a library, and has none."""
    if path.suffix.lower() not in (".svg", ".png"):
        other = (path.stem or "speed") + ".svg"
        raise QwenctlError(f"--plot {path.name}: neither .svg nor .png", f"--plot {quote(other)}")
    if path.suffix.lower() == ".png":
        _check_png_library(path)


def _check_png_library(path: Path) -> None:
    """Raise QwenctlError if there is no library to draw the PNG `path`, or what it needs of the system is missing."""
    other = f"--plot {quote(path.with_suffix('.svg'))}"
    if find_spec(_PNG_LIBRARY) is None:
        hint = f"{other}, or `pip install {_PNG_LIBRARY}`"
        raise QwenctlError("drawing a PNG needs a library that is not installed", hint)
    try:
        importlib.import_module(_PNG_LIBRARY)
    except OSError as error:  # it finds cairo, a library of the system, when it is imported
        hint = f"{other}, or install cairo (`apt install libcairo2`)"
        raise QwenctlError("drawing a PNG needs cairo, which cannot be loaded", hint, ExitCode.CONFIG) from error


def check_chart_place(path: Path) -> None:
    """Raise QwenctlError if the folder of `path` is missing, or a file is there that is no chart of this program."""
    if not path.absolute().parent.is_dir():
        raise QwenctlError(f"no such folder: {path.parent}", "create the folder first", ExitCode.CANNOT_CREATE)
    if not _may_be_replaced(path):
        hint = f"give another name, or rm {quote(path)}"
        raise QwenctlError(f"{path} already exists, and is no chart of qwenctl", hint, ExitCode.CANNOT_CREATE)


def write_chart(path: Path, data: bytes) -> None:
    """Write the file of a chart, an SVG or `to_png` of one. Raises OSError, and QwenctlError as `check_chart_place`."""
    check_chart_place(path)  # again: what is drawn may have taken an hour to measure
    if _is_device(path):
        path.write_bytes(data)
        return
    with atomic_write(path, mode=0o644) as file:
        file.write(data)


def to_png(svg: str) -> bytes:
    """Return the chart as a PNG, which needs cairosvg."""
    return mark_png(importlib.import_module(_PNG_LIBRARY).svg2png(bytestring=svg.encode(), scale=2))


def mark_png(data: bytes) -> bytes:
    """Return the PNG `data` with a text chunk that names this program, so that it may be replaced by another chart."""
    chunk = b"tEXt" + _PNG_MARK
    marked = struct.pack(">I", len(_PNG_MARK)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:_PNG_HEADER_END] + marked + data[_PNG_HEADER_END:]


def _may_be_replaced(path: Path) -> bool:
    """Whether `path` does not exist, is a device, or is a regular file (not a link to one) that this program drew."""
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True
    if not is_file:
        return _is_device(path)
    with path.open("rb") as file:
        head = file.read(512)
    return bool(_OWN_SVG.match(head)) or (head.startswith(_PNG_START) and _PNG_MARK in head)


def _is_device(path: Path) -> bool:
    """Whether `path` is a terminal, a pipe or the like, as /dev/stdout: nothing that could be lost."""
    return path.is_char_device() or path.is_fifo()
