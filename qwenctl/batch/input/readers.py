"""Readers for the input formats: JSON lines, lines of text, names of files, CSV.

A stream comes in, records go out in its order; in the place of an invalid one, an `InvalidRecord` with position and
reason. Only errors that affect the whole input raise. Templates are filled here; the backend is not known.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from qwenctl.batch.input.made_up_names import MadeUpNames, given_in_csv, given_in_json
from qwenctl.batch.input.record_schema import checked_name, is_nameless, parse_record
from qwenctl.batch.input.splitter import MAX_RECORD_BYTES, PIPE, InputLine, split_lines
from qwenctl.batch.input.strict_json import BadLine, decode_utf8, parse_object
from qwenctl.batch.input.template import MissingField, Template
from qwenctl.batch.records import GenerationParams, InvalidRecord, Record
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.text_check import check_text, find_other_kind
from qwenctl.protocol.messages import Message

Kind = Literal["jsonl", "lines", "files", "csv"]
Item = Record | InvalidRecord
_TEXT_FIELD = "text"  # the name of a line in a template
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True)
class InputFormat:
    """How to read records. `prompt` and `system` are templates; `passthrough` names fields to copy to the answer."""

    kind: Kind
    params: GenerationParams
    prompt: Template | None = None
    system: Template | None = None
    passthrough: tuple[str, ...] = ()
    end: bytes = b"\n"


def read_items(stream: BinaryIO, name: str, form: InputFormat) -> Iterator[Item]:
    """The records of a stream called `name`. Raises QwenctlError if it is in another format or encoding."""
    if form.kind == "csv":
        return _csv(stream, name, form)
    return _read_lines(stream, name, form)


def _read_lines(stream: BinaryIO, name: str, form: InputFormat) -> Iterator[Item]:
    names = MadeUpNames(stream, lambda again: given_in_json(again, form.end))
    parsers: dict[str, Callable[[InputLine, InputFormat], Record]] = {"lines": _line, "files": _file}
    parse = parsers.get(form.kind) or partial(_json, names=names)
    for piece in split_lines(stream, name, form.end):
        data = piece.data.removesuffix(b"\r") if form.end == b"\n" else piece.data
        if not data or data.isspace():
            continue
        try:
            if not piece.is_whole:
                raise BadLine(MAX_RECORD_BYTES + 1, f"longer than {MAX_RECORD_BYTES >> 20} MiB")
            yield parse(InputLine(piece.line, data), form)
        except BadLine as error:
            yield InvalidRecord(piece.line, f"{name}:{piece.line}:{error.column}", str(error), id=error.name)


def _json(piece: InputLine, form: InputFormat, names: MadeUpNames) -> Record:
    fields, text = parse_object(piece.data)
    try:
        make_up_name = partial(names.name, piece.line, piece.data)
        if form.prompt is not None:  # with a template all fields are data, even one named "messages"
            return _fill_templates(fields, checked_name(fields.get("id")) or make_up_name(), piece.line, form)
        system = form.system
        named = system.names if system is not None else frozenset()
        own = {key: value for key, value in fields.items() if key not in named or key == "id"}
        record = parse_record(own, text, piece.line, form.params, form.passthrough, make_up_name)
        if system is None or any(message.role == "system" for message in record.messages):
            return record
        messages = (*_system_message(system, fields), *record.messages)
        return Record(record.key, record.line, messages, record.params, record.passthrough)
    except BadLine as error:
        ids = [fields.get(key) for key in ("custom_id", "id") if not is_nameless(fields.get(key))]
        error.name = str(ids[0]) if ids and isinstance(ids[0], str | int) else None
        raise


def _line(piece: InputLine, form: InputFormat) -> Record:
    """A line of text: the prompt itself, or the field `text` of a template."""
    text = decode_utf8(piece.data)
    control = _CONTROL.search(text)
    if control is not None:
        raise BadLine(control.start() + 1, f"a control character ({control[0]!r}): is this a text file?")
    if form.end == b"\n" and "\r" in text:
        raise BadLine(
            text.index("\r") + 1, "a carriage return: do lines end in them alone? `tr '\\r' '\\n'` changes that"
        )
    return _fill_templates({_TEXT_FIELD: text, "line": piece.line}, str(piece.line), piece.line, form)


def _file(piece: InputLine, form: InputFormat) -> Record:
    """A line that names a file: its content is the field `file` of the template."""
    path = Path(decode_utf8(piece.data))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECORD_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadLine(1, f"{path}: {reason.lower()}") from error
    if len(data) > MAX_RECORD_BYTES:
        raise BadLine(1, f"{path}: larger than {MAX_RECORD_BYTES >> 20} MiB")
    if (other := find_other_kind(data)) is not None:
        raise BadLine(1, f"{path} {other[0]}")
    try:
        text = decode_utf8(data.removeprefix(b"\xef\xbb\xbf"))
    except BadLine as error:
        raise BadLine(1, f"{path}: {error}") from error
    fields = {"file": text, "path": str(path), "name": path.name}
    return _fill_templates(fields, str(path), piece.line, form)


def _csv(stream: BinaryIO, name: str, form: InputFormat) -> Iterator[Item]:
    """Rows of CSV; the first one names the fields."""
    made_up = MadeUpNames(stream, lambda again: given_in_csv(again, form.end))
    text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
    csv.field_size_limit(MAX_RECORD_BYTES)
    try:
        rows = csv.reader(text, strict=True)
        names = _header(rows, name, form)
        while True:
            line = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield InvalidRecord(line, f"{name}:{line}:1", f"not CSV ({error})")
                continue
            if row:
                yield _row(row, names, line, name, form, made_up)
    finally:
        text.detach()


def _header(rows: Iterator[list[str]], name: str, form: InputFormat) -> list[str]:
    try:
        names = [field.strip() for field in next(rows, [])]
    except csv.Error as error:
        raise QwenctlError(f"{name}:1: not CSV ({error})", "", ExitCode.BAD_DATA) from error
    if names:
        check_text(names[0].encode("utf-8", "surrogateescape"), name, PIPE, allows_nul=True)
    if len(set(names)) != len(names):
        twice = next(field for field in names if names.count(field) > 1)
        raise QwenctlError(f"{name}:1: two columns are named {twice!r}", "", ExitCode.BAD_DATA)
    wanted = (form.prompt.names if form.prompt else frozenset()) | (form.system.names if form.system else frozenset())
    missing = sorted(wanted.union(form.passthrough) - set(names))
    if missing and names:
        raise QwenctlError(f"{name}:1: no column is named {missing[0]!r}", f"available: {', '.join(names)}")
    return names


def _row(row: list[str], names: list[str], line: int, name: str, form: InputFormat, made_up: MadeUpNames) -> Item:
    if len(row) != len(names):
        return InvalidRecord(line, f"{name}:{line}:1", f"{len(row)} fields where the first line has {len(names)}")
    for number, value in enumerate(row):
        if _SURROGATE.search(value):
            return InvalidRecord(line, f"{name}:{line}:1", f"field {number + 1} ({names[number]}) is not UTF-8")
    fields = dict(zip(names, row, strict=True))
    key = fields.get("id") or made_up.name(line, "\0".join(row).encode("utf-8", "surrogateescape"))
    try:
        return _fill_templates(fields, key, line, form)
    except BadLine as error:
        return InvalidRecord(line, f"{name}:{line}:{error.column}", str(error), id=fields.get("id") or None)


def _fill_templates(fields: Mapping[str, Any], key: str, line: int, form: InputFormat) -> Record:
    """The record with the templates filled in. Raises BadLine if a field is missing or the prompt is empty."""
    try:
        text = form.prompt.fill(fields) if form.prompt is not None else str(fields[_TEXT_FIELD])
        system = _system_message(form.system, fields)
    except MissingField as error:
        there = ", ".join(sorted(fields)[:8])
        raise BadLine(1, f"no field {str(error)!r} for the template; available: {there}") from error
    if not text or text.isspace():
        raise BadLine(1, "the prompt is empty")
    passthrough = {name: fields[name] for name in form.passthrough if name in fields}
    return Record(key, line, (*system, Message("user", text)), form.params, passthrough)


def _system_message(template: Template | None, fields: Mapping[str, Any]) -> tuple[Message, ...]:
    text = template.fill(fields) if template is not None else ""
    return (Message("system", text),) if text.strip() else ()
