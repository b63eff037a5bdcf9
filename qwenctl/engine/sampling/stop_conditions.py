"""Keeps an answer from going on for ever: a budget for the thinking, and an end for what only repeats itself.

Token ids come in one by one; what must be done after each goes out: nothing, close the thinking, stop. A loop in the
thinking is closed soon, for the answer can still be given. One in the answer must be long before it counts: lists,
tables and code repeat short spans for good reason.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.protocol.messages import Channel, ThinkingEnd

LONGEST_PERIOD = 1024
MIN_LOOP_TOKENS: dict[Channel, int] = {"thinking": 48, "answer": 300, "call": 300}  # tokens, all rounds together
_REPEATS = 3
_LOOK_EVERY = 16  # tokens; a loop of 48 tokens or more repeats 32 of them or more


class StopConditions:
    """Watches one answer. `closing_tokens` end the thinking, `think_budget` is its length in tokens (-1: no limit)."""

    def __init__(self, closing_tokens: Sequence[int], think_budget: int) -> None:
        self._closing_tokens, self._budget = closing_tokens, think_budget
        self._loops = {channel: RepetitionDetector(least) for channel, least in MIN_LOOP_TOKENS.items()}
        self._loops_in_thinking = False
        self.thinking_end: ThinkingEnd = "model"

    def is_repeating(self, channel: Channel, token: int) -> bool:
        """Whether the answer is a loop with `token`, which was said in `channel`."""
        loops = self._loops[channel].observe(token)
        self._loops_in_thinking = loops and channel == "thinking"
        return loops and channel != "thinking"

    def forced_tokens(self, text: StreamingDetokenizer) -> Sequence[int]:
        """The tokens that must follow now, to close the thinking; mostly none."""
        if text.channel != "thinking":
            return ()
        if self._loops_in_thinking:
            self.thinking_end = "loop"
        elif 0 <= self._budget <= text.tokens["thinking"]:
            self.thinking_end = "budget"
        else:
            return ()
        return self._closing_tokens


class RepetitionDetector:
    """Whether the last tokens are a span said three times on end, `least_tokens` long or more in all.

    A run of tokens that are each equal to the one a period before begins a loop. Runs are looked for now and then, by
    the last tokens, and then followed: every loop is longer than what may pass in between.
    """

    def __init__(self, least_tokens: int) -> None:
        self._least, self._said = least_tokens, array("i")
        self._runs: dict[int, int] = {}  # by period, the tokens on end that are equal to the one a period before

    def observe(self, token: int) -> bool:
        """Whether it is a loop with `token`."""
        said = self._said
        said.append(token)
        if self._runs:
            runs = self._runs.items()
            self._runs = {period: run + 1 for period, run in runs if said[-1 - period] == token}
        if len(said) % _LOOK_EVERY == 0:
            self._scan()
        if not self._runs:  # nearly always
            return False
        return any(run >= max((_REPEATS - 1) * period, self._least - period) for period, run in self._runs.items())

    def _scan(self) -> None:
        """Find the runs that the last tokens are the end of."""
        recent = self._said[-LONGEST_PERIOD - _LOOK_EVERY :].tobytes()
        width, end = self._said.itemsize, len(recent) - _LOOK_EVERY * self._said.itemsize
        at = recent.find(recent[end:])
        while at < end:  # where the last tokens find themselves
            period, rest = divmod(end - at, width)
            if not rest and period not in self._runs:
                self._runs[period] = self._run_length(period)
            at = recent.find(recent[end:], at + 1)

    def _run_length(self, period: int) -> int:
        """Of a run that was not there when runs were looked for before, so that it is short."""
        said, run = self._said, _LOOK_EVERY
        while run < len(said) - period and said[-1 - run] == said[-1 - run - period]:
            run += 1
        return run
