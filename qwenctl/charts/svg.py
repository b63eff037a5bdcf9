"""The SVG elements that charts are made of.

Numbers and text come in; elements and documents go out as text. Lengths are in pixels from the top left. What the
charts show is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from xml.sax.saxutils import escape

MARK = "<!-- drawn by qwenctl -->"  # in the second line of a file: such a file may be replaced by another chart
_SMALLEST = 8  # size of a font in pixels that can still be read


def make_document(width: float, height: float, parts: Iterable[str]) -> str:
    """Return a complete SVG file with the elements `parts` on a white background."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">'
    )
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head, MARK, background, *parts, "</svg>", ""])


def draw_label(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 13,
    color: str = "#222",
    turned: bool = False,
    within: float = math.inf,
) -> str:
    """Return a text whose `anchor` (start, middle, end) is at (x, y); a `turned` one reads upward.

    A text that is probably wider than `within` pixels is written smaller (not squeezed by `textLength`, which cairosvg
    does not know), down to `_SMALLEST`; if it is still too wide, its middle is left out, and the tooltip has all of it.
    """
    scaled = max(min(size, _SMALLEST), min(size, size * within / max(1.0, text_width(text, size))))
    shown = _shorten(text, scaled, within)
    title = f"<title>{escape(text)}</title>" if shown != text else ""
    position = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"' if turned else f'x="{x:.1f}" y="{y:.1f}"'
    look = f'text-anchor="{anchor}" font-size="{math.floor(scaled * 100) / 100:g}" fill="{color}"'
    return f"<text {position} {look}>{escape(shown)}{title}</text>"


def _shorten(text: str, size: float, within: float) -> str:
    """`text`, or without its middle if it is wider than `within` pixels."""
    if text_width(text, size) <= within + 0.01:
        return text
    half = max(1, int((within / text_width("x", size) - 1) / 2))
    return f"{text[:half]}…{text[-half:]}"


def text_width(text: str, size: float) -> float:
    """Return about how wide the text is in pixels, in a font of `size`; fonts differ, so it is a little too much."""
    return 0.62 * size * len(text)


def draw_rectangle(x: float, y: float, width: float, height: float, color: str, title: str = "") -> str:
    """Return a filled rectangle; `title` is the tooltip in a browser."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{color}">{inner}</rect>'


def draw_line(points: Iterable[tuple[float, float]], color: str, width: float = 1) -> str:
    """Return a line through the points."""
    coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{coordinates}" fill="none" stroke="{color}" stroke-width="{width}"/>'
