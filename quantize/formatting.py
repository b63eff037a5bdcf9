"""Numbers of bytes, times and rates as text, for messages and tables."""

from __future__ import annotations


def format_bytes(n_bytes: float) -> str:
    """`n_bytes` in decimal units with three digits or more, such as "7.20 GB"."""
    if n_bytes < 999.5:
        return f"{n_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        n_bytes /= 1000
        if n_bytes < 999.5:
            return f"{n_bytes:#.3g}".rstrip(".") + f" {unit}"
    return f"{n_bytes:,.0f} GB"


def format_rate(per_second: float) -> str:
    """So many a second, such as "0.62", "9.5" or "3,434"."""
    if per_second >= 100:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2g}"


def format_duration(seconds: float) -> str:
    """A time span, such as "2:05" or "1:02:05"."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
