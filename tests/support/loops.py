"""When an answer that repeats itself is broken off."""

from __future__ import annotations

from qwenctl.engine.sampling.stop_conditions import RepetitionDetector


def first_alarm(tokens: list[int], least_tokens: int) -> int | None:
    """After how many tokens a loop is seen."""
    detector = RepetitionDetector(least_tokens)
    return next((count for count, token in enumerate(tokens, 1) if detector.observe(token)), None)
