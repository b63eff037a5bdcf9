"""Keys that come while nobody reads: they are not echoed, keep their meaning, and wait for the next prompt.

A terminal device goes in, the text of the waiting keys comes out. What the keys mean is not known here.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from qwenctl.terminal.pastes import BURST_S, PasteMarker, ends_in_paste

_PASTE_MODE_ON, _PASTE_MODE_OFF = "\x1b[?2004h", "\x1b[?2004l"
_PAUSE_IN_PASTE_S = 2.0  # a paste whose end does not come within this time has none
_READ_BYTES = 1 << 16


class Keyboard:
    """The keyboard of a program that is not always at a prompt; a context manager. Off a terminal it does nothing.

    Inside, keys are not echoed, Enter stays a carriage return, and the terminal marks pastes. Keys that were typed
    before keep their meaning, too: with the terminal's own line editing on, Enter arrived as a line feed.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stdin is not None and sys.stdin.isatty()
        self._bursts: list[tuple[float, str]] = []  # what has come, and when the last key of it did
        self.pastes = PasteMarker()
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._before: list[int | list[bytes | int]] = []
        self._quiet: list[int | list[bytes | int]] = []
        self._is_collecting = self._is_lent = False

    def __enter__(self) -> Keyboard:
        if not self._is_terminal:
            return self
        self._before = termios.tcgetattr(sys.stdin)
        quiet = termios.tcgetattr(sys.stdin)
        quiet[0] &= ~termios.ICRNL
        quiet[3] &= ~(termios.ECHO | termios.ICANON)
        quiet[3] |= termios.NOFLSH  # Ctrl-C stops an answer, and does not discard what is typed already
        self._quiet = quiet
        self._handler = signal.signal(signal.SIGCONT, self._on_continue)
        self.silence()
        if self._before[0] & termios.ICRNL:  # type: ignore[operator]  # the first of the fields is a number
            self._keep(_read_available().replace(b"\n", b"\r"))
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_terminal:
            return
        signal.signal(signal.SIGCONT, self._handler)
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self._before)
        _write_mode(_PASTE_MODE_OFF)

    def silence(self) -> None:
        """Echo no keys, and let the terminal mark pastes: at the start, and after a prompt, which ends both."""
        self._is_lent = False
        if self._is_terminal:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSANOW, self._quiet)
            _write_mode(_PASTE_MODE_ON)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Inside, keys are read as they come: a Ctrl-C behind a paste that fills the terminal's queue would be late."""
        if not self._is_terminal or self._is_collecting:
            yield
            return
        wake, stop = os.pipe()
        reader = threading.Thread(target=self._read_until, args=(wake,), daemon=True)
        self._is_collecting = True
        reader.start()
        try:
            yield
        finally:
            self._is_collecting = False
            os.close(stop)  # which the thread sees as the end of `wake`
            reader.join()
            os.close(wake)

    def take(self) -> str:
        """Return the text of the keys that have come, and forget them; the whole of a paste that is still coming.

        Lines that came faster than anybody types are marked as a paste. A prompt may follow, until `silence`.
        """
        self._is_lent = True
        if not self._is_terminal:
            return ""
        self._keep(_read_available())
        text = self._marked()
        while ends_in_paste(text):
            more = _read_available(_PAUSE_IN_PASTE_S)
            if not more:
                break
            self._keep(more)
            text += self._marked()
        return text

    def _keep(self, keys: bytes) -> None:
        """Let `keys`, which have just been read, wait with what has come before."""
        text, now = self._decoder.decode(keys), time.monotonic()
        if self._bursts and now - self._bursts[-1][0] < BURST_S:
            text = self._bursts.pop()[1] + text
        self._bursts.append((now, text))

    def _marked(self) -> str:
        """Return the waiting text with its pastes marked, and forget it."""
        bursts, self._bursts = self._bursts, []
        return "".join(self.pastes.mark(text, at) for at, text in bursts)

    def _read_until(self, wake: int) -> None:
        """Read keys until something comes from the pipe `wake`; runs in a thread."""
        # Signals are for the main thread, which may be waiting for the engine.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        keys = sys.stdin.fileno()
        while True:
            readable, _, _ = select.select([keys, wake], [], [])
            if wake in readable:
                return
            with contextlib.suppress(OSError):
                if not _is_in_foreground():  # reading would stop the program
                    select.select([wake], [], [], 0.2)
                    continue
                if piece := os.read(keys, _READ_BYTES):
                    self._keep(piece)
                    continue
            return  # the terminal is gone

    def _on_continue(self, *_: object) -> None:
        # A shell changes the terminal while the program is stopped (Ctrl-Z). A running prompt restores it by itself.
        if not self._is_lent and _is_in_foreground():
            self.silence()


def _is_in_foreground() -> bool:
    return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()


def _read_available(seconds: float = 0.0) -> bytes:
    """Return what can be read at once, waiting up to `seconds` for the first of it; nothing if the terminal is gone."""
    data, keys = bytearray(), sys.stdin.fileno()
    with contextlib.suppress(OSError):
        while _is_in_foreground() and select.select([keys], [], [], 0.0 if data else seconds)[0]:
            piece = os.read(keys, _READ_BYTES)
            if not piece:
                break
            data += piece
    return bytes(data)


def _write_mode(sequence: str) -> None:
    """Write an escape sequence to the terminal, unless it knows none or is gone."""
    if os.environ.get("TERM", "dumb") != "dumb" and sys.stdout is not None and sys.stdout.isatty():
        with contextlib.suppress(OSError):
            sys.stdout.write(sequence)
            sys.stdout.flush()
