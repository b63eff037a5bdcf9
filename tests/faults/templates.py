"""Render hostile chat templates, made at random: `python -m tests.faults.templates --count 200`.

Prints what did not hold (`tests/support/hostile_templates.py` says what must), and exits with 1 if anything did not.
"""

from __future__ import annotations

import argparse
import sys

from tests.support.hostile_templates import run_templates


def main() -> int:
    """Run from the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failures = run_templates(options.count, options.seed)
    sys.stdout.write("".join(f"{line}\n" for line in failures))
    sys.stdout.write(f"{options.count - len(failures)} of {options.count} templates held\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
