"""What other processes say is read in chunks, no longer than until a point in time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from qwenctl.tools.subprocesses import describe_exit, read_chunks


def test_chunks_come_with_the_number_of_their_stream_until_all_end() -> None:
    pipes = [os.pipe() for _ in range(2)]
    for number, (_, writing) in enumerate(pipes):
        os.write(writing, f"text {number}".encode())
        os.close(writing)
    streams = [os.fdopen(reading, "rb", 0) for reading, _ in pipes]
    found = sorted(read_chunks(streams, time.monotonic() + 60))
    assert found == [(0, b""), (0, b"text 0"), (1, b""), (1, b"text 1")]
    for stream in streams:
        stream.close()


def test_silence_past_the_time_limit_raises_and_what_came_before_is_given() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"early")
    found: list[tuple[int, bytes]] = []
    with os.fdopen(reading, "rb", 0) as stream, pytest.raises(TimeoutError):
        found.extend(read_chunks([stream], time.monotonic() - 1))
    os.close(writing)
    assert found == []


@pytest.mark.parametrize(("code", "text"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "signal 9")])
def test_exit_is_described_by_code_or_signal(code: int, text: str, tmp_path: Path) -> None:
    assert describe_exit(code) == text
