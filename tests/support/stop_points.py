"""Runs a command line and kills its own process at a given step after the last tensor of a conversion is written.

`python -m tests.support.stop_points N COMMAND...`. A step is a call that changes something on the disk, before and
after it happens, and the end of the command. If there are fewer than N steps, the command runs to its end.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

CALLS = ("write", "pwrite", "fsync", "ftruncate", "replace", "unlink", "rmdir")


class StopPoints:
    """Counts steps once it is armed, and kills the process at step `last`."""

    def __init__(self, last: int) -> None:
        self._left, self._is_armed = last, False

    def arm(self) -> None:
        """Count from now on."""
        self._is_armed = True

    def step(self) -> None:
        """Count one step."""
        self._left -= self._is_armed
        if self._is_armed and self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` with a step before and one after it."""

        @functools.wraps(call)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.step()
            result = call(*arguments, **named)
            self.step()
            return result

        return wrapped


def main() -> None:
    """See the module."""
    points = StopPoints(int(sys.argv[1]))
    import quantize.convert
    from qwenctl.cli import main as run

    collect = quantize.convert._collect_results

    def collect_and_arm(*arguments: Any) -> None:
        collect(*arguments)
        points.arm()

    quantize.convert._collect_results = collect_and_arm
    for name in CALLS:
        setattr(os, name, points.wrap(getattr(os, name)))
    code = run(sys.argv[2:])
    points.arm()
    points.step()
    sys.exit(code)


if __name__ == "__main__":
    main()
