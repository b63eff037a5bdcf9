"""Reads the files of an earlier run: which records are done, and whether it was the same batch.

The output and the statistics file beside it are compared line by line: each line of statistics has the hash of its
output line. Lines that only one of the two files has, or that were damaged on the disk, are taken out and answered
again. An output line that was edited since is an error.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quantize.foreign_json import BadJSON, parse_json, parse_object
from qwenctl.batch.output.append_log import AppendLog
from qwenctl.batch.output.checked_line import parse_checked_line, to_checked_line
from qwenctl.errors import ExitCode, QwenctlError

_VERSION = 1
# The options behind settings that are recorded under other names, and settings whose values are hashes.
_OPTIONS = {
    "--temperature": "--temp", "model": "--model", "room": "--ctx-size", "cache": "--cache-type-k and --cache-type-v",
    "chat_template": "--chat-template", "endpoint": "--endpoint", "think-budget": "--think-budget",
    "max-tokens": "--predict", "grammar": "--grammar", "json-schema": "--json-schema", "seed": "--seed",
    "kind": "the input format",
}  # fmt: skip
_HASHED = ("model", "chat_template", "--prefix")


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
        before = ((parse_checked_line(line) or {}).get("batch") or {}).get("settings", before)
    if before is None:
        if output.size and not stats.size:
            raise QwenctlError(
                f"{output.path} exists, but {stats.path.name} does not: it cannot be resumed",
                "--overwrite starts over, or choose another -o",
                ExitCode.CANNOT_CREATE,
            )
        return header_line(settings)
    changed = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
    if changed and not force:
        name = changed[0]
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        written, now = before.get(name), settings.get(name)
        raise QwenctlError(
            f"{output.path} was written {_describe(name, written, now)}{more}",
            "--force-resume resumes anyway, --overwrite starts over",
            ExitCode.USAGE,
        )
    return header_line(settings) if changed else b""


def _describe(name: str, written: object, now: object) -> str:
    """A setting that has changed, as the option that it is typed as: "with OPTION VALUE, now it is VALUE"."""
    option = _OPTIONS.get(name, name)
    if name in _HASHED:
        return f"with another {option}"
    if name == "think":
        return "with --think, now it is --no-think" if written else "with --no-think, now it is --think"
    before = f"with {option} {_shorten(written)}" if written is not None else f"without {option}"
    return f"{before}, now it is {_shorten(now)}" if now is not None else f"{before}, now without"


def reconcile(stats: AppendLog, output: AppendLog) -> None:
    """Take out what only one of the files has whole. Raises QwenctlError if an output line was edited."""
    saved_output = saved_stats = 0
    written = output.lines()
    for begin, line in stats.lines():
        fields = parse_checked_line(line)
        if fields is None:
            break
        if "batch" not in fields:
            at, answer = next(written, (0, b""))
            if not answer or fields.get("line_hash") != line_hash(answer):
                break
            saved_output = at + len(answer)
        saved_stats = begin + len(line)
    left = [line for _, line in stats.lines(saved_stats)]
    rest = _Remainder(
        [(line, parse_checked_line(line)) for line in left],
        [line for _, line in output.lines(saved_output)],
        saved_stats + sum(map(len, left)) < stats.size,
    )
    _check_tail(output, saved_output, rest)
    whole_stats, whole_output = _matched(rest, output, saved_output)
    # The output first: lines of statistics without an output line are dropped by the next run, but not the reverse.
    if whole_output:
        output.rewrite(itertools.chain(output.pieces(saved_output), whole_output))
    else:
        output.truncate(saved_output)
    if whole_stats:
        stats.rewrite(itertools.chain(stats.pieces(saved_stats), whole_stats))
    else:
        stats.truncate(saved_stats)


@dataclass(frozen=True)
class _Remainder:
    """The lines of both files after the first ones that do not match; damaged lines of statistics have no fields.

    `is_torn` if the statistics end in the middle of a line.
    """

    stats: Sequence[tuple[bytes, dict[str, Any] | None]]
    output: Sequence[bytes]
    is_torn: bool


@dataclass(frozen=True)
class _Gap:
    """A place without a pair of lines: statistics whose output line is `lost`, and whether others are damaged.

    `is_last` at the end of the files: a process that was killed may not have written the statistics.
    """

    lost: tuple[Mapping[str, Any], ...] = ()
    is_damaged: bool = False
    is_last: bool = False


def _matched(rest: _Remainder, output: AppendLog, begin: int) -> tuple[list[bytes], list[bytes]]:
    """The lines of statistics and of the output to keep. Raises QwenctlError if an output line was edited."""
    hashes = [line_hash(line) for line in rest.output]
    places: dict[str, list[int]] = {}
    for number, digest in enumerate(hashes):
        places.setdefault(digest, []).append(number)
    whole_stats: list[bytes] = []
    whole_output: list[bytes] = []

    def keep_recoverable(between: Sequence[bytes], gap: _Gap) -> None:
        for line in between:
            if _is_recoverable(line, gap, output, begin):
                whole_stats.append(_recovered(line))
                whole_output.append(line)

    cursor, gap = 0, _Gap()
    for line, fields in rest.stats:
        if fields is None:
            gap = replace(gap, is_damaged=True)
        elif "batch" in fields:
            whole_stats.append(line)
        else:
            place = next((one for one in places.get(str(fields.get("line_hash")), ()) if one >= cursor), -1)
            if place < 0:
                gap = replace(gap, lost=(*gap.lost, fields))
                continue
            keep_recoverable(rest.output[cursor:place], gap)
            whole_stats.append(line)
            whole_output.append(rest.output[place])
            cursor, gap = place + 1, _Gap()
    keep_recoverable(rest.output[cursor:], replace(gap, is_last=True, is_damaged=gap.is_damaged or rest.is_torn))
    return whole_stats, whole_output


def _is_recoverable(line: bytes, gap: _Gap, output: AppendLog, begin: int) -> bool:
    """Whether an output line without statistics is whole, and says itself whose answer it is; else it is dropped.

    Raises QwenctlError if somebody edited the line: it is neither of these, and no damage.
    """
    if b"\0" in line:
        return False
    name, _ = _names(line)
    is_edited = name in {fields["id"] for fields in gap.lost}
    if name and not is_edited and (gap.is_damaged or gap.is_last):
        return True
    if not is_edited and (gap.is_damaged or (gap.is_last and not gap.lost)):
        return False
    if not _is_json(line) and any(str(fields["hash"]).encode() in line for fields in gap.lost if fields.get("hash")):
        return False
    number = sum(piece.count(b"\n") for piece in output.pieces(begin))
    at = next(place for place, (_, one) in enumerate(output.lines(begin), number + 1) if one == line)
    raise QwenctlError(
        f"{output.path}:{at}: this line was changed after the batch wrote it",
        "--overwrite starts over, or choose another -o",
        ExitCode.BAD_DATA,
    )


def _recovered(line: bytes) -> bytes:
    """A line of statistics for an output line that lost its own."""
    name, fingerprint = _names(line)
    return to_checked_line({"id": name, "hash": fingerprint, "bytes": len(line), "line_hash": line_hash(line)})


def _names(line: bytes) -> tuple[str, str]:
    """The id and the hash that an output line has, in either format; empty if it has none, as with `--select`."""
    try:
        fields = parse_object(line)
        if "custom_id" in fields:
            found = fields["custom_id"], fields["response"]["request_id"]
        else:
            found = fields["id"], fields["hash"]
    except (ValueError, KeyError, TypeError):
        return "", ""
    return found if all(isinstance(one, str) and one for one in found) else ("", "")


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line, object)
    except BadJSON:
        return False
    return True


def _check_tail(output: AppendLog, saved: int, rest: _Remainder) -> None:
    """Raises QwenctlError if all of the output is one unfinished line that no batch began: somebody's own file."""
    tail = output.read(0, 1) if not saved and not rest.output else b""
    has_answers = any(fields is not None and "batch" not in fields for _, fields in rest.stats)
    if tail and has_answers and tail not in b'\0{["-0123456789tfn':
        raise QwenctlError(
            f"{output.path} has no line of this batch",
            "--overwrite starts over, or choose another -o",
            ExitCode.BAD_DATA,
        )


def done_lines(stats: AppendLog) -> Iterator[CompletedLine]:
    """The output lines in file order. To be called after `reconcile`."""
    output_begin = 0
    for done in _stats_lines(stats):
        yield CompletedLine(done.key, done.fingerprint, output_begin, done.stats_begin, done.size, done.stats)
        output_begin += done.stats["bytes"]


def _stats_lines(stats: AppendLog) -> Iterator[CompletedLine]:
    for begin, line in stats.lines():
        fields = parse_checked_line(line)
        if fields is not None and "batch" not in fields:
            yield CompletedLine(fields["id"], fields["hash"], 0, begin, len(line), fields)


def header_line(settings: Mapping[str, Any]) -> bytes:
    """A line of the statistics file with the settings that apply to the lines after it."""
    return to_checked_line({"batch": {"version": _VERSION, "settings": dict(settings)}})


def _shorten(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
