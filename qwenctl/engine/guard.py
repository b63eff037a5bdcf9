"""Keeps an answer from going on for ever: a budget for the thinking, and an end for what only repeats itself.

Token ids come in one by one; what must be done after each goes out: nothing, close the thinking, stop. A loop in the
thinking is closed soon, for the answer can still be given. One in the answer must be long before it counts: lists,
tables and code repeat short spans for good reason.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

from qwenctl.engine.protocol import Channel, ThinkingEnd
from qwenctl.engine.text import AnswerText

LONGEST_PERIOD = 1024
LEAST_LOOP: dict[Channel, int] = {"thinking": 48, "answer": 300, "call": 300}  # tokens, all rounds together
_REPEATS = 3


class AnswerGuard:
    """Watches one answer. `closing_tokens` end the thinking, `think_budget` is its length in tokens (-1: no limit)."""

    def __init__(self, closing_tokens: Sequence[int], think_budget: int) -> None:
        self._closing_tokens, self._budget = closing_tokens, think_budget
        self._loops = {channel: LoopDetector(least) for channel, least in LEAST_LOOP.items()}
        self._loops_in_thinking = False
        self.thinking_end: ThinkingEnd = "model"

    def must_stop(self, channel: Channel, token: int) -> bool:
        """Whether the answer is a loop with `token`, which was said in `channel`."""
        loops = self._loops[channel].sees(token)
        self._loops_in_thinking = loops and channel == "thinking"
        return loops and channel != "thinking"

    def closing(self, text: AnswerText) -> Sequence[int]:
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


class LoopDetector:
    """Whether the last tokens are a span said three times on end, `least_tokens` long or more in all."""

    def __init__(self, least_tokens: int) -> None:
        self._least, self._count = least_tokens, 0
        self._places = defaultdict[int, deque[int]](deque)  # where each token was said, as far as a period reaches
        self._runs: dict[int, int] = {}  # by period, the tokens on end that are equal to the one a period before

    def sees(self, token: int) -> bool:
        """Whether it is a loop with `token`."""
        now, places, runs = self._count, self._places[token], self._runs
        while places and now - places[0] > LONGEST_PERIOD:
            places.popleft()
        self._runs, loops = {}, False
        for place in places:
            period = now - place
            run = self._runs[period] = runs.get(period, 0) + 1
            loops = loops or run >= max((_REPEATS - 1) * period, self._least - period)
        places.append(now)
        self._count += 1
        return loops
