"""Processes that write small files at once or are killed: no entry is lost, and nothing is left for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qwenctl.files.atomic import write_object
from qwenctl.hub.local.lock_file import LOCK_NAME, read_lock

WRITERS, ENTRIES = 4, 25
ADD = f"""
import sys
from pathlib import Path
from qwenctl.hub.local.lock_file import LockedFile, LockedModel, add_to_lock
sys.stdin.read()  # start together
for number in range({ENTRIES}):
    files = (LockedFile("a.gguf", 1, "0" * 64),)
    add_to_lock(Path(sys.argv[1]), LockedModel("owner/name", "c" * 40, f"{{sys.argv[2]}}-{{number}}", files))
"""
KILLED_WRITE = """
import os, signal, sys
from pathlib import Path
from qwenctl.files.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    file.write(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_that_write_a_lock_file_at_once_lose_no_entry(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path), str(number)], stdin=subprocess.PIPE)
        for number in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdin
        writer.stdin.close()
    assert [writer.wait(120) for writer in writers] == [0] * WRITERS
    expected = {f"{writer}-{number}" for writer in range(WRITERS) for number in range(ENTRIES)}
    assert {one.quant for one in read_lock(tmp_path / LOCK_NAME)} == expected
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_file_of_a_killed_writer_is_deleted_at_the_next_write(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_WRITE, str(tmp_path / "a")], check=False)
    [left] = tmp_path.iterdir()
    assert left.name.startswith("a.pid")
    write_object(tmp_path / "b", {})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
