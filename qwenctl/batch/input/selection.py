"""Opens the input and selects records from it: all, the first ones, or a random sample.

An `InputSpec` comes in; a stream, the number of records and the records themselves go out.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from qwenctl.batch.input.readers import InputFormat, Item, read_items
from qwenctl.batch.specs import STANDARD_STREAM, InputSpec
from qwenctl.errors import ExitCode, QwenctlError, quote
from qwenctl.terminal.streams import piped_input, warn_if_silent

_CHUNK_BYTES = 1 << 16


@contextlib.contextmanager
def open_source(given: InputSpec) -> Iterator[BinaryIO]:
    """The input as a binary stream. Raises QwenctlError if there is none, OSError for a file that cannot be read."""
    if str(given.source) == STANDARD_STREAM:
        stream = piped_input()
        if stream is None:
            hint = "qwenctl batch IN.jsonl -o OUT.jsonl -m MODEL"
            raise QwenctlError("no input: standard input is a terminal", hint)
        yield stream
        return
    path = Path(given.source)
    if path.is_dir():
        hint = f"find {quote(path)} -type f | qwenctl batch --files --prompt 'Summarize: {{file}}'"
        raise QwenctlError(f"{path} is a folder", hint, ExitCode.NO_INPUT)
    with path.open("rb") as file:
        yield file


def count_records(given: InputSpec, stream: BinaryIO) -> int | None:
    """Roughly how many records there are: the lines of a regular file, else `sample` or `limit`; None if unknown.

    It is an upper bound for a file: blank lines and newlines inside CSV fields are counted too.
    """
    if not _is_regular(stream):
        return given.sample or given.limit
    count, last = 0, b""
    start = stream.tell()
    while chunk := stream.read(_CHUNK_BYTES):
        count, last = count + chunk.count(given.end), chunk
    stream.seek(start)
    count += bool(last) and not last.endswith(given.end)
    count -= given.kind == "csv"
    return min(count, given.limit or count, given.sample or count)


def _is_regular(stream: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False


def select_records(given: InputSpec, form: InputFormat, stream: BinaryIO) -> Iterator[Item]:
    """The selected records, in input order: a sample is drawn from the first ones, up to `limit`.

    Raises QwenctlError if there are none.
    """
    warn_if_silent(stream, f"records on {given.name}", "from a file: qwenctl batch IN.jsonl")
    items = islice(read_items(stream, given.name, form), given.limit)
    chosen = iter(_reservoir_sample(items, given.sample, given.seed)) if given.sample else items
    first = next(chosen, None)
    if first is None:
        hint = 'a record is a line such as {"prompt": "…"}'
        raise QwenctlError(f"{given.name} has no records", hint, ExitCode.BAD_DATA)
    yield first
    yield from chosen


def _reservoir_sample(items: Iterator[Item], count: int, seed: int) -> list[Item]:
    """A uniform random sample of `count` items in input order (reservoir sampling, Knuth's algorithm R)."""
    draw = random.Random(seed)  # noqa: S311 - the same records in each run
    saved: list[tuple[int, Item]] = []
    for number, item in enumerate(items):
        if len(saved) < count:
            saved.append((number, item))
        elif (place := draw.randrange(number + 1)) < count:
            saved[place] = number, item
    return [item for _, item in sorted(saved, key=lambda pair: pair[0])]
