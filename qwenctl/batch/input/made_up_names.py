"""Names for records that have none: no name that another record was given is ever made up.

The input and a line come in, a name goes out: the number of the line, unless some record of the input has that name;
then with as many apostrophes as it takes. A pipe cannot be read ahead: names made up there have a part of the hash of
the record, which nobody gives by chance. The same input gives the same names in each run.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from qwenctl.batch.input.seen_ids import IdSet
from qwenctl.batch.input.splitter import split_lines

_LIKE_A_NUMBER = re.compile(r"\d+'*")  # only such a given name can be the same as one made up


class MadeUpNames:
    """Makes up names for the records of `stream`, which is read through once if a record without a name comes.

    `given` reads the names in the rest of the stream.
    """

    def __init__(self, stream: BinaryIO, given: Callable[[BinaryIO], Iterator[str]]) -> None:
        self._stream, self._given = stream, given
        self._can_seek = stream.seekable()
        self._begin = stream.tell() if self._can_seek else 0
        self._taken: IdSet | None = None

    def name(self, line: int, content: bytes) -> str:
        """The name of the record on `line`, whose bytes are `content`."""
        if not self._can_seek:
            return f"{line}-{hashlib.blake2b(content, digest_size=6).hexdigest()}"
        if self._taken is None:
            self._taken = self._read_ahead()
        name = str(line)
        while name in self._taken:
            name += "'"
        return name

    def _read_ahead(self) -> IdSet:
        place = self._stream.tell()
        taken = IdSet()
        self._stream.seek(self._begin)
        for name in self._given(self._stream):
            if _LIKE_A_NUMBER.fullmatch(name):
                taken.add(name)
        self._stream.seek(place)
        return taken


def given_in_json(stream: BinaryIO, end: bytes) -> Iterator[str]:
    """The names in lines of JSON; what is no valid record has none."""
    for piece in split_lines(stream, "", end):
        if b'id"' not in piece.data and b"\\" not in piece.data:
            continue
        try:
            fields = json.loads(piece.data)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            yield from (str(fields[key]) for key in ("id", "custom_id") if isinstance(fields.get(key), str | int))


def given_in_csv(stream: BinaryIO, _: bytes) -> Iterator[str]:
    """The names in the column `id` of CSV, if there is one."""
    text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
    try:
        rows = csv.reader(text)
        names = [field.strip() for field in next(rows, [])]
        if "id" in names:
            column = names.index("id")
            yield from (row[column] for row in rows if len(row) > column)
    except csv.Error:
        return  # the record before has been refused; what follows it is refused as well
    finally:
        text.detach()
