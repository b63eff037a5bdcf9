"""Entry of `python -m qwenctl`; the same as the command `qwenctl`."""

from __future__ import annotations

import sys

from qwenctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
