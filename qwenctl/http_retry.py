"""Asking a server again: how long to pause before the next attempt, and how long the server asks to wait.

Headers of a response and numbers of attempts come in, seconds go out. Who waits, and when to give up, is decided where
something is asked for.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 20.0
_JITTER = 0.2  # so that connections which broke together do not all come back together


def backoff_seconds(attempt: int) -> float:
    """The pause after `attempt` (from 0): 0.2 s, twice that after each more, up to 20 s, give or take 20 %."""
    pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(attempt, 64))
    return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The seconds that Retry-After asks to wait, as a number or as a date; None where it asks for neither.

    `headers` find their names in any case, as those of HTTP clients do. A date in the past is a wait of 0 s.
    """
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError):  # no date either
            return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
