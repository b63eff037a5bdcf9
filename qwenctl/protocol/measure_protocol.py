"""The messages by which an engine measures itself; like `protocol`, this module knows their shape alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """Evaluate made-up tokens: `prompt` at once, then `generate` one by one; `depth` before them do not count.

    Answered by Measured or Failed. What the context held is forgotten.
    """

    prompt: int = 0
    generate: int = 0
    depth: int = 0


@dataclass(frozen=True)
class Measured:
    """What was measured took so many seconds."""

    seconds: float
