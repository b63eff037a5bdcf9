"""Standard input that is open and silent: who waits learns for what."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from qwenctl.batch.input.selection import select_records
from qwenctl.batch.records import GenerationParams
from qwenctl.batch.specs import InputSpec
from qwenctl.chat.pipe import read_prompt
from qwenctl.commands.options.common import text_or_file
from qwenctl.errors import QwenctlError
from qwenctl.terminal.streams import warn, warn_if_silent


@pytest.mark.parametrize(("written", "warnings"), [(b"", 1), (b"hi", 0)])
def test_open_but_silent_standard_input_is_told(written: bytes, warnings: int) -> None:
    told: list[str] = []
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin:
        os.write(writing, written)
        warn_if_silent(stdin, "the prompt", "without one: < /dev/null", told.append, 0.05)
        os.close(writing)
        warn_if_silent(stdin, "the prompt", "", told.append, 0.05)  # its end has come
    assert told == ["waiting for the prompt, which is open; without one: < /dev/null"] * warnings


def test_file_and_memory_are_never_silent(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        warn_if_silent(file, "a file", "", told.append)
    warn_if_silent(io.BytesIO(), "memory", "", told.append)
    assert told == []


def test_each_reader_says_what_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    def records(stream: BinaryIO) -> Any:
        given = InputSpec()
        return list(select_records(given, given.format(GenerationParams()), stream))

    def prompt(stream: BinaryIO) -> Any:
        return read_prompt([], stream, warn)

    def grammar(stream: BinaryIO) -> Any:
        return text_or_file(f"/dev/fd/{stream.fileno()}", "::=", "--grammar")

    def read(reader: Callable[[BinaryIO], Any], stream: BinaryIO) -> None:
        with contextlib.suppress(QwenctlError):  # nothing comes
            reader(stream)

    writers, readers = [], []
    for reader in (records, prompt, grammar):
        descriptor, writing = os.pipe()
        stream = open(descriptor, "rb")  # noqa: SIM115 - closed below
        writers.append((writing, stream))
        readers.append(threading.Thread(target=read, args=(reader, stream)))
        readers[-1].start()
    for thread in readers:
        thread.join(4)
    for writing, _stream in writers:
        os.close(writing)
    for thread in readers:
        thread.join()
    for _, stream in writers:
        stream.close()
    told = capsys.readouterr().err
    assert "waiting for records on stdin, which is open" in told
    assert "waiting for the prompt on standard input, which is open" in told
    assert "waiting for --grammar /dev/fd/" in told
