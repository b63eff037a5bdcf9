"""Entry of the command `qwenctl` and of `python -m qwenctl`: signals end the program quietly from its first line on."""

from __future__ import annotations

import os
import signal
import sys  # and no more: what is imported before the handlers are set can be interrupted

_INTERRUPTED, _SIGNAL_BASE = 130, 128


def main() -> int:
    """Run the command line of this process; return its exit code."""
    # Until all is imported nothing has begun that would have to be cleaned up, and an exception in an import has a
    # traceback of its own, which nothing can catch.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    from qwenctl.cli import main as run

    try:
        if signal.getsignal(signal.SIGINT) == _leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: the interpreter only ends
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _leave(number: int, _frame: object) -> None:
    os._exit(_SIGNAL_BASE + number)


if __name__ == "__main__":
    sys.exit(main())
