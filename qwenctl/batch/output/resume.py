"""What an earlier run of the same batch has left: which records are done, and whether it was the same batch.

The output and the file of statistics beside it are compared line by line: each line of statistics has the hash of the
line of the output that it belongs to. What only one of them has is cut off, and will be made again. A line that was
changed by somebody else is refused.
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
    """A line of the output: its record's key and fingerprint, and where both files' lines begin."""

    key: str
    fingerprint: str
    output_begin: int
    stats_begin: int
    size: int
    stats: dict[str, Any]


def line_hash(line: bytes) -> str:
    """The hash of a line of the output, newline included."""
    return hashlib.blake2b(line, digest_size=8).hexdigest()


def check_settings(stats: AppendLog, output: AppendLog, settings: Mapping[str, Any], *, force: bool) -> bytes:
    """Compare `settings` with those that the output was made with; the line to begin or to go on with, if any.

    Raises QwenctlError where the output belongs to other settings, unless it is to be forced, or to nothing known.
    """
    before = None
    for _, line in stats.lines():
        before = ((_parsed(line) or {}).get("batch") or {}).get("settings", before)
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
            f"{output.path} was written with {name} {_shown(before.get(name))}{more},"
            f" now it is {_shown(settings.get(name))}",
            "--force-resume resumes anyway, --overwrite starts over",
            ExitCode.USAGE,
        )
    return header_line(settings) if changed else b""


def reconcile(stats: AppendLog, output: AppendLog) -> None:
    """Cut off what stands in only one of the two files. Raises QwenctlError for a line that was changed."""
    saved_output = saved_stats = 0
    written = enumerate(output.lines(), 1)
    for begin, line in stats.lines():
        fields = _parsed(line)
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
    """The lines of the output, in its order, once the two files agree."""
    output_begin = 0
    for done in _stats_lines(stats):
        yield CompletedLine(done.key, done.fingerprint, output_begin, done.stats_begin, done.size, done.stats)
        output_begin += done.stats["bytes"]


def _stats_lines(stats: AppendLog) -> Iterator[CompletedLine]:
    for begin, line in stats.lines():
        fields = _parsed(line)
        if fields is None:
            return
        if "batch" not in fields:
            yield CompletedLine(fields["id"], fields["hash"], 0, begin, len(line), fields)


def header_line(settings: Mapping[str, Any]) -> bytes:
    """The line of the statistics that says which settings hold from there on."""
    fields = {"batch": {"version": _VERSION, "settings": dict(settings)}}
    return json.dumps(fields, ensure_ascii=True).encode() + b"\n"


def _parsed(line: bytes | None) -> dict[str, Any] | None:
    try:
        fields = json.loads(line or b"")
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
