"""Reads the files of an earlier run: which records are done, and whether it was the same batch.

The output and the statistics file beside it are compared line by line: each line of statistics has the hash of its
output line. Lines that only one of the two files has are cut off, and answered again. An output line that was edited
since is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qwenctl.batch.output.append_log import AppendLog
from qwenctl.errors import ExitCode, QwenctlError

_VERSION = 1


@dataclass(frozen=True)
class CompletedLine:
    """An output line with its statistics: the record's key and fingerprint, and byte offsets in both files.

    `size` is that of the line of statistics, in bytes with its newline.
    """

    key: str
    fingerprint: str
    output_begin: int
    stats_begin: int
    size: int
    stats: dict[str, Any]


def line_hash(line: bytes) -> str:
    """The hash of an output line, newline included: 16 hex digits."""
    return hashlib.blake2b(line, digest_size=8).hexdigest()


def check_settings(stats: AppendLog, output: AppendLog, settings: Mapping[str, Any], *, force: bool) -> bytes:
    """Compare `settings` with those that the output was written with; the header line to append, b"" if none is due.

    Raises QwenctlError if they differ and `force` is not set, or if the output has no statistics file.
    """
    before = None
    for _, line in stats.lines():
        before = ((_parse_line(line) or {}).get("batch") or {}).get("settings", before)
    if before is None:
        if output.size:
            raise QwenctlError(
                f"{output.path} exists, but {stats.path.name} does not: it cannot be resumed",
                "--overwrite starts over, or choose another -o",
                ExitCode.CANNOT_CREATE,
            )
        return header_line(settings)
    changed = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
    if changed and not force:
        name = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise QwenctlError(
            f"{output.path} was written with {name} {_shorten(before.get(name))}{more},"
            f" now it is {_shorten(settings.get(name))}",
            "--force-resume resumes anyway, --overwrite starts over",
            ExitCode.USAGE,
        )
    return header_line(settings) if changed else b""


def reconcile(stats: AppendLog, output: AppendLog) -> None:
    """Cut off lines that only one of the files has. Raises QwenctlError if an output line was edited."""
    saved_output = saved_stats = 0
    written = enumerate(output.lines(), 1)
    for begin, line in stats.lines():
        fields = _parse_line(line)
        if fields is None:
            break
        if "batch" not in fields:
            number, (at, answer) = next(written, (0, (0, b"")))
            if not answer:
                break
            if fields["line_hash"] != line_hash(answer):
                raise QwenctlError(
                    f"{output.path}:{number}: this line was changed after the batch wrote it",
                    "--overwrite starts over, or choose another -o",
                    ExitCode.BAD_DATA,
                )
            saved_output = at + len(answer)
        saved_stats = begin + len(line)
    output.truncate(saved_output)
    stats.truncate(saved_stats)


def done_lines(stats: AppendLog) -> Iterator[CompletedLine]:
    """The output lines in file order. To be called after `reconcile`."""
    output_begin = 0
    for done in _stats_lines(stats):
        yield CompletedLine(done.key, done.fingerprint, output_begin, done.stats_begin, done.size, done.stats)
        output_begin += done.stats["bytes"]


def _stats_lines(stats: AppendLog) -> Iterator[CompletedLine]:
    for begin, line in stats.lines():
        fields = _parse_line(line)
        if fields is None:
            return
        if "batch" not in fields:
            yield CompletedLine(fields["id"], fields["hash"], 0, begin, len(line), fields)


def header_line(settings: Mapping[str, Any]) -> bytes:
    """A line of the statistics file with the settings that apply to the lines after it."""
    fields = {"batch": {"version": _VERSION, "settings": dict(settings)}}
    return json.dumps(fields, ensure_ascii=True).encode() + b"\n"


def _parse_line(line: bytes | None) -> dict[str, Any] | None:
    try:
        fields = json.loads(line or b"")
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _shorten(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
