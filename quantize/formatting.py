"""Numbers of bytes, times and rates as text, for messages and tables, and the one reader of sizes that a user writes.

Files, disks and downloads are shown in decimal units as the Hub shows them (`format_bytes`), memory in binary ones as
it is sold (`format_memory`); each text names its unit, and `parse_bytes` reads it back.
"""

from __future__ import annotations

import re

from quantize.errors import BadOption

_PREFIXES = "kmgt"
_SIZE = re.compile(r"(\d+)(?:\.(\d+))?\s*(?:([kmgt])(ib?|b)?|b)?", re.ASCII | re.IGNORECASE)
_LONGEST_SIZE = 40  # characters
_SIZE_HINT = "24G or 24GiB is 24 * 1024^3 bytes, 24GB is 24 * 1000^3; units: K, M, G, T"


def parse_bytes(text: str, bare_unit: int = 1, lowest: int = 1) -> int:
    """The bytes that `text` means, by the rule of GNU coreutils; upper and lower case are the same.

    K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; kB, MB, GB, TB powers of 1000. A bare number counts
    `bare_unit` bytes. Raises BadOption for any other text, and for less than `lowest` or more than 2**63 - 1 bytes.
    """
    found = _SIZE.fullmatch(text.strip()) if len(text) <= _LONGEST_SIZE else None
    if not found:
        raise BadOption(f"'{text}' is not a size", _SIZE_HINT)
    whole, decimals, prefix, suffix = found[1], found[2] or "", found[3], (found[4] or "").lower()
    unit: int = bare_unit if found[0][-1].isdigit() else 1
    if prefix:
        unit = (1000 if suffix == "b" else 1024) ** (_PREFIXES.index(prefix.lower()) + 1)
    size: int = int(whole + decimals) * unit // 10 ** len(decimals)
    if size < lowest:
        raise BadOption(f"'{text}' is too small a size", _SIZE_HINT)
    if size >= 2**63:
        raise BadOption(f"'{text}' is too large a size", _SIZE_HINT)
    return size


def format_bytes(n_bytes: float) -> str:
    """`n_bytes` of a file, a disk or a download in decimal units with three digits or more, such as "7.20 GB"."""
    if n_bytes < 999.5:
        return f"{n_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        n_bytes /= 1000
        if n_bytes < 999.5:
            return f"{n_bytes:#.3g}".rstrip(".") + f" {unit}"
    return f"{n_bytes:,.0f} GB"


def format_memory(n_bytes: float) -> str:
    """`n_bytes` of RAM or GPU memory in binary units with three digits or more, such as "7.20 GiB"."""
    if n_bytes < 1023.5:
        return f"{n_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        n_bytes /= 1024
        if n_bytes < 999.5:
            return f"{n_bytes:#.3g}".rstrip(".") + f" {unit}"
        if n_bytes < 1023.5:
            return f"{n_bytes:.0f} {unit}"
    return f"{n_bytes:,.0f} GiB"


def format_rate(per_second: float) -> str:
    """Format a rate (units per second) without its unit, such as "0.62", "9.5" or "3,434"."""
    if per_second >= 100:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2g}"


def format_duration(seconds: float) -> str:
    """Format a duration as M:SS or H:MM:SS, such as "2:05" or "1:02:05"."""
    hours, remainder = divmod(round(seconds), 3600)
    minutes, seconds_left = divmod(remainder, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"
