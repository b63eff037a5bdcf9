"""When the loop guard stops an answer that repeats itself."""

from __future__ import annotations

from qwenctl.engine.sampling.stop_conditions import RepetitionDetector


def first_alarm(tokens: list[int], least_tokens: int) -> int | None:
    """The number of tokens after which a loop is detected; None if there is none."""
    detector = RepetitionDetector(least_tokens)
    return next((count for count, token in enumerate(tokens, 1) if detector.observe(token)), None)
