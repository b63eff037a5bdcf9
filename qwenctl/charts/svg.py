"""The few elements of SVG that charts are drawn with.

Numbers and text come in, elements go out as text, and at last the document. All lengths are in pixels, with the origin
at the top left. What is drawn is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape


def document(width: float, height: float, parts: Iterable[str]) -> str:
    """A whole file: the elements `parts` on white."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def label(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 13, color: str = "#222", turned: bool = False
) -> str:
    """Words whose beginning, middle or end (`anchor`: start, middle, end) is at that place; `turned` reads upward."""
    place = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"' if turned else f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} text-anchor="{anchor}" font-size="{size}" fill="{color}">{escape(words)}</text>'


def rectangle(x: float, y: float, width: float, height: float, color: str, title: str = "") -> str:
    """A filled rectangle; `title` is what a browser shows when one points at it."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{color}">{inner}</rect>'


def line(points: Iterable[tuple[float, float]], color: str, width: float = 1) -> str:
    """A line from point to point."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="{width}"/>'
