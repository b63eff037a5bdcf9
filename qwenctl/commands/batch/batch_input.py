"""The input of `qwenctl batch` as its options say it: which stream, in which form, which of its records."""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from qwenctl.commands.batch.batch_request import BatchOptions
from qwenctl.commands.options import common as options
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.terminal.streams import piped_input

if TYPE_CHECKING:
    from qwenctl.batch.input.readers import InputFormat, Item
    from qwenctl.batch.input.template import Template
    from qwenctl.chat.saved.prefixes import SavedPrefix

_STEP = 1 << 16


def check_options(given: BatchOptions) -> None:
    """Raise QwenctlError for options that contradict each other."""
    if "+" in given.kind:
        both = " and ".join(f"--{one}" for one in given.kind.split("+"))
        raise QwenctlError(f"{both} contradict each other", "IN has one form")
    if given.null and given.kind == "csv":
        raise QwenctlError("--null and --csv contradict each other", "CSV has lines")
    if given.kind in ("files", "csv") and given.prompt is None:
        example = "'Summarize: {file}'" if given.kind == "files" else "'Translate {text} into {lang}'"
        raise QwenctlError(f"--{given.kind} needs --prompt", f"--prompt {example}")
    if given.select and given.style != "qwenctl":
        raise QwenctlError("--select and --format contradict each other", "leave one of them out")
    if given.plot is not None and given.plot.suffix != ".svg":
        raise QwenctlError(f"--plot {given.plot}: only SVG can be drawn", f"--plot {given.plot.with_suffix('.svg')}")
    if given.output == "-" and (given.retry_errors or given.overwrite or given.force):
        raise QwenctlError("standard output cannot be gone on with", "-o OUT.jsonl names a file")
    if given.prefix is not None and given.system is not None:
        raise QwenctlError("--prefix and --system contradict each other", "a prefix is the system prompt")
    _check_kept(given)
    if given.output != "-" and given.source != "-" and _is_same(Path(given.source), Path(given.output)):
        raise QwenctlError(f"{given.output} is the input", "-o names another file")


def _check_kept(given: BatchOptions) -> None:
    from qwenctl.batch.output.formats import FIELDS

    taken = sorted(set(given.keep) & set(FIELDS))
    if taken:
        raise QwenctlError(f"--keep {taken[0]}: an answer has a field of that name", f"it has: {', '.join(FIELDS)}")


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def input_format(given: BatchOptions) -> InputFormat:
    """How the records are read. Raises QwenctlError for a template or schema that is none."""
    from qwenctl.batch.input.readers import InputFormat
    from qwenctl.batch.input.template import Template
    from qwenctl.batch.records import GenerationParams

    wanted = {
        **given.wanted,
        "grammar": options.text_or_file(given.wanted["grammar"], "::="),
        "json_schema": options.text_or_file(given.wanted["json_schema"], "{"),
    }
    return InputFormat(
        given.kind,  # type: ignore[arg-type]  # `check_options` has looked at it
        GenerationParams(**wanted),
        Template.parse(given.prompt, "--prompt") if given.prompt is not None else None,
        _system(given),
        given.keep,
        b"\0" if given.null else b"\n",
    )


def _system(given: BatchOptions) -> Template | None:
    """The template of the system prompt; a prefix is text without any field."""
    from qwenctl.batch.input.template import Template

    if given.prefix is not None:
        return Template(((load_prefix(given.prefix).text, None),))
    return Template.parse(given.system, "--system") if given.system is not None else None


def load_prefix(given: str) -> SavedPrefix:
    """The prefix that `--prefix` names. Raises QwenctlError if there is none."""
    from qwenctl.chat.saved.prefixes import find_prefix
    from qwenctl.chat.saved.sessions import SessionStore
    from qwenctl.files.paths import prefixes_folder

    return find_prefix(SessionStore(prefixes_folder(), "prefix"), given, "", None)


@contextlib.contextmanager
def open_source(given: BatchOptions) -> Iterator[tuple[BinaryIO, str]]:
    """The input and its name for messages."""
    if given.source == "-":
        stream = piped_input()
        if stream is None:
            hint = "qwenctl batch IN.jsonl -o OUT.jsonl -m MODEL"
            raise QwenctlError("no input: standard input is a terminal", hint)
        yield stream, "stdin"
        return
    path = Path(given.source)
    if path.is_dir():
        hint = f"find {given.source} -type f | qwenctl batch --files --prompt 'Summarize: {{file}}'"
        raise QwenctlError(f"{path} is a folder", hint, ExitCode.NO_INPUT)
    with path.open("rb") as file:
        yield file, given.source


def count_records(given: BatchOptions, stream: BinaryIO) -> int | None:
    """About how many records come: the lines of a file that can be read twice."""
    if not _is_regular(stream):
        return given.sample or given.limit
    count, last = 0, b""
    end = b"\0" if given.null else b"\n"
    start = stream.tell()
    while piece := stream.read(_STEP):
        count, last = count + piece.count(end), piece
    stream.seek(start)
    count += bool(last) and not last.endswith(end)
    count -= given.kind == "csv"
    return min(count, given.limit or count, given.sample or count)


def _is_regular(stream: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False


def select_records(given: BatchOptions, stream: BinaryIO, name: str, form: InputFormat) -> Iterator[Item]:
    """The records that are wanted, in their order. Raises QwenctlError if there are none."""
    from qwenctl.batch.input.readers import read_items

    items = read_items(stream, name, form)
    chosen = iter(_reservoir_sample(items, given.sample, given.seed)) if given.sample else islice(items, given.limit)
    first = next(chosen, None)
    if first is None:
        raise QwenctlError(f"{name} has no records", 'a record is a line such as {"prompt": "…"}', ExitCode.BAD_DATA)
    yield first
    yield from chosen


def _reservoir_sample(items: Iterator[Item], count: int, seed: int) -> list[Item]:
    """`count` of all items, each set as likely as any other (reservoir sampling), in their order."""
    draw = random.Random(seed)  # noqa: S311 - the same records on each run
    kept: list[tuple[int, Item]] = []
    for number, item in enumerate(items):
        if len(kept) < count:
            kept.append((number, item))
        elif (place := draw.randrange(number + 1)) < count:
            kept[place] = number, item
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])]
