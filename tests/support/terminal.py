"""A terminal for tests: a program on a pseudo-terminal, displayed by a terminal emulator."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pyte

PAUSE_S = 0.1  # between keys that a person types: lines that come faster are a paste


class Terminal:
    """Runs `command` on a terminal of `width` x `height`. A context manager; the program ends with it."""

    def __init__(
        self, command: Sequence[str], home: Path, width: int = 80, height: int = 24, **environment: str
    ) -> None:
        settings = {"TERM": "xterm-256color", "XDG_STATE_HOME": str(home), "PROMPT_TOOLKIT_NO_CPR": "1"}
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.child = pexpect.spawn(
            command[0],
            list(command[1:]),
            env={**inherited, **settings, **environment},
            dimensions=(height, width),
            timeout=60,
        )
        self.child.delaybeforesend = None
        self.screen = pyte.HistoryScreen(width, height, history=10_000, ratio=0.5)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.close(force=True)

    @property
    def text(self) -> str:
        """All text on the terminal, including lines that scrolled off."""
        before = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        return "\n".join(line.rstrip() for line in (*before, *self.screen.display))

    def send(self, keys: str) -> None:
        self.child.send(keys)

    def wait_for(self, text: str, count: int = 1, seconds: float = 60) -> None:
        """Wait until `text` is on the terminal `count` times."""
        end = time.monotonic() + seconds
        while self.text.count(text) < count:
            assert time.monotonic() < end, f"{text!r} did not come; the terminal shows:\n{self.text}"
            self._read()

    def exit_code(self) -> int:
        """Wait for the program to end; returns its exit code."""
        end = time.monotonic() + 60
        while self.child.isalive() and time.monotonic() < end:
            self._read()
        self._read()
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus

    def _read(self) -> None:
        try:
            data = self.child.read_nonblocking(65536, timeout=0.1)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            time.sleep(0.05)
            return
        self.raw += data
        self._stream.feed(data)
