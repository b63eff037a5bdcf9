"""Keeps an answer from going on forever: a budget for the thinking, and an end to repetitions.

Token ids come in one by one; what must happen after each goes out: nothing, close the thinking, or stop. A repetition
in the thinking is cut off early, since the answer can still be given. One in the answer must be long before it counts:
lists, tables and code repeat short spans for good reason.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.protocol.messages import Channel, ThinkingEnd

LONGEST_PERIOD = 1024  # tokens in one repetition of a loop
MIN_LOOP_TOKENS: dict[Channel, int] = {"thinking": 48, "answer": 300, "call": 300}  # all repetitions together
_REPEATS = 3
_SCAN_EVERY = 16  # tokens; the shortest loop (48) repeats 32 tokens, so a scan falls within its run


class StopConditions:
    """Watches one answer.

    `closing_tokens` end the thinking; `think_budget` is its maximum length in tokens (-1: no limit).
    """

    def __init__(self, closing_tokens: Sequence[int], think_budget: int) -> None:
        self._closing_tokens, self._budget = closing_tokens, think_budget
        self._detectors = {channel: RepetitionDetector(min_tokens) for channel, min_tokens in MIN_LOOP_TOKENS.items()}
        self._is_thinking_repeating = False
        self.thinking_end: ThinkingEnd = "model"

    def is_repeating(self, channel: Channel, token: int) -> bool:
        """Whether the answer must stop because `token`, generated in `channel`, completes a loop."""
        is_loop = self._detectors[channel].observe(token)
        self._is_thinking_repeating = is_loop and channel == "thinking"
        return is_loop and channel != "thinking"

    def forced_tokens(self, text: StreamingDetokenizer) -> Sequence[int]:
        """The tokens that must follow now to close the thinking; usually none."""
        if text.channel != "thinking":
            return ()
        if self._is_thinking_repeating:
            self.thinking_end = "loop"
        elif 0 <= self._budget <= text.tokens["thinking"]:
            self.thinking_end = "budget"
        else:
            return ()
        return self._closing_tokens


class RepetitionDetector:
    """Detects whether the last tokens are a span repeated three times in a row, in all at least `min_tokens` long.

    A run of tokens that each equal the token one period earlier is the start of a loop. Every 16 tokens the last 16 are
    searched for in the recent past, which finds new runs; known runs are then extended token by token. No loop is
    missed, since each is longer than the gap between two scans.
    """

    def __init__(self, min_tokens: int) -> None:
        self._min_tokens, self._tokens = min_tokens, array("i")
        self._runs: dict[int, int] = {}  # by period: length of the run that ends now

    def observe(self, token: int) -> bool:
        """Whether `token` completes a loop."""
        tokens = self._tokens
        tokens.append(token)
        if self._runs:
            runs = self._runs.items()
            self._runs = {period: run + 1 for period, run in runs if tokens[-1 - period] == token}
        if len(tokens) % _SCAN_EVERY == 0:
            self._scan()
        if not self._runs:  # nearly always
            return False
        return any(run >= max((_REPEATS - 1) * period, self._min_tokens - period) for period, run in self._runs.items())

    def _scan(self) -> None:
        """Find the runs that the last 16 tokens belong to."""
        recent = self._tokens[-LONGEST_PERIOD - _SCAN_EVERY :].tobytes()
        width, end = self._tokens.itemsize, len(recent) - _SCAN_EVERY * self._tokens.itemsize
        # Search in bytes, which is much faster than in tokens; a match counts only if it lies on a token's boundary.
        match = recent.find(recent[end:])
        while match < end:  # at `end` the pattern matches itself
            period, rest = divmod(end - match, width)
            if not rest and period not in self._runs:
                self._runs[period] = self._run_length(period)
            match = recent.find(recent[end:], match + 1)

    def _run_length(self, period: int) -> int:
        """The length of a newly found run; it started after the last scan, so the search is short."""
        tokens, run = self._tokens, _SCAN_EVERY
        while run < len(tokens) - period and tokens[-1 - run] == tokens[-1 - run - period]:
            run += 1
        return run
