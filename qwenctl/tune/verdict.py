"""Whether something is faster than something else, or only seems to be.

Seconds of both, measured in turn in rounds, come in; the gain goes out, and whether it is more than noise. The
logarithms of the ratios of a round are taken as a sample: its mean must be above 0 by twice its standard error, and the
gain large enough to be worth a setting.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_ROUNDS = 3
_LEAST_GAIN, _ERRORS = 1.01, 2.0


@dataclass(frozen=True)
class Verdict:
    """`gain` is how many times as fast the other is: the geometric mean over the rounds."""

    gain: float
    is_faster: bool


def verdict(base: Sequence[float], other: Sequence[float]) -> Verdict:
    """Compare the seconds of rounds. Too few rounds show nothing."""
    logs = [math.log(one / two) for one, two in zip(base, other, strict=True)]
    if not logs:
        return Verdict(1.0, is_faster=False)
    mean = statistics.fmean(logs)
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    enough = len(logs) >= LEAST_ROUNDS and mean >= math.log(_LEAST_GAIN) and mean > _ERRORS * error
    return Verdict(math.exp(mean), enough)
