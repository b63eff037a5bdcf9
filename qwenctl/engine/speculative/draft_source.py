"""What is known of one source of drafts: how often it is right, how long its steps take, and its state.

Drafts come in with the number of accepted tokens and the seconds of their step; for each length that a draft may have,
the expected throughput and the worst-case loss go out. Seconds are wall time. The model behind it is described in
docs/internals/speculative.md. How drafts are made, and when they are allowed, is not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

WARMUP_STEPS = 8  # steps of a source that are charged to the budget in advance
_MAX_COOLDOWN = 1024  # steps
_FIRST_COOLDOWN, _NEVER_PAYS_COOLDOWN = 16, 4 * _MAX_COOLDOWN
_TIME_ALPHA, _RATE_ALPHA = 0.2, 0.04  # weight of the last value in a moving average
_OUTLIER_FACTOR = 1.25  # a step that takes longer than that times its average was held up by something else
_POSITIONS = 4  # positions in a draft whose acceptance rates are told apart; later ones count as the last
_PRIOR_COUNT = 4  # pseudo-counts of the prior acceptance rate
PRIOR_ACCEPTANCE = 0.6  # published MTP heads have 0.6 to 0.9
PRIOR_COST_PER_TOKEN = 0.3  # of a plain step, for each drafted token
_WORST_COST_PER_TOKEN = 2.0  # the same, while nothing is measured and a draft that is wrong is to be replayed


class MovingAverage:
    """An exponential moving average, which is the mean while it has few values."""

    def __init__(self) -> None:
        self.value, self.count = 0.0, 0

    def add(self, value: float) -> None:
        """Take in one more value."""
        self.count += 1
        self.value += max(_TIME_ALPHA, 1 / self.count) * (value - self.value)

    def add_step(self, seconds: float) -> None:
        """Take in the time of one more step. The first one and steps that were held up hardly count."""
        if self.count == 1:  # the first step of a kind may include what libllama prepares for it
            self.count, self.value = 2, min(self.value, seconds)
        else:
            self.add(min(seconds, _OUTLIER_FACTOR * self.value) if self.count else seconds)


class StepTimes:
    """The seconds of a step by the number of tokens that are drafted in it."""

    def __init__(self) -> None:
        self._measured: dict[int, MovingAverage] = {}

    @property
    def count(self) -> int:
        """The number of measurements."""
        return sum(time.count for time in self._measured.values())

    def add(self, length: int, seconds: float) -> None:
        """Take in a step with `length` drafted tokens."""
        self._measured.setdefault(length, MovingAverage()).add_step(seconds)

    def curve(self, max_length: int, plain_s: float) -> list[float]:
        """The seconds of steps with 0 to `max_length` drafted tokens; one without takes `plain_s`.

        What is not measured is interpolated, or extrapolated by at most PRIOR_COST_PER_TOKEN for each token: the first
        one costs most, for the state is forked and libllama builds another graph.
        """
        points = [(0, plain_s), *sorted((length, time.value) for length, time in self._measured.items())]
        seconds = [plain_s]
        for (begin, begin_s), (end, end_s) in pairwise(points):
            slope = (end_s - begin_s) / (end - begin)
            seconds += [begin_s + slope * step for step in range(1, end - begin + 1)]
        longest, longest_s = points[-1]
        cost = (longest_s / plain_s - 1) / longest if longest else PRIOR_COST_PER_TOKEN
        slope = plain_s * min(max(cost, 0.0), PRIOR_COST_PER_TOKEN)
        seconds += [longest_s + slope * step for step in range(1, max_length - longest + 1)]
        return seconds[: max_length + 1]


class AcceptanceRates:
    """How often a drafted token is accepted if all before it in its draft were, by its position."""

    def __init__(self) -> None:
        self._rates, self._counts = [PRIOR_ACCEPTANCE], [0]

    @property
    def count(self) -> int:
        """The number of drafts that were seen."""
        return self._counts[0]

    def add(self, drafted: int, accepted: int) -> None:
        """Take in a draft of `drafted` tokens, of which the first `accepted` were right."""
        for position in range(min(accepted + 1, drafted)):
            at = min(position, _POSITIONS - 1)
            if at == len(self._rates):
                self._rates.append(self.at(at))
                self._counts.append(0)
            self._counts[at] += 1
            weight = max(_RATE_ALPHA, 1 / (self._counts[at] + _PRIOR_COUNT))
            self._rates[at] += weight * ((position < accepted) - self._rates[at])

    def at(self, position: int) -> float:
        """The rate at `position`, which counts from 0. One that was never reached is not expected to be worse."""
        at = min(position, _POSITIONS - 1)
        return self._rates[at] if at < len(self._rates) else max(PRIOR_ACCEPTANCE, self._rates[-1])

    def all_accepted(self, length: int) -> float:
        """The probability that a draft of `length` tokens is all right."""
        return math.prod(map(self.at, range(length)))


class Phase(Enum):
    """Whether a source is asked for drafts, and at whose risk."""

    WARMUP = "warmup"  # few of its steps are measured, so that the budget must cover the worst case of each
    ACTIVE = "active"  # its estimates are trusted
    COOLDOWN = "cooldown"  # it is not asked until a number of steps is done


@dataclass(frozen=True)
class SourceState:
    """A phase; a cooldown ends after `ends_at` steps in all, or with the answer if it is for the budget."""

    phase: Phase
    ends_at: int = 0
    is_over_budget: bool = False


@dataclass(frozen=True)
class DraftOption:
    """A draft of `length` tokens: expected tokens a second, and the seconds that it may lose.

    A probe is made to measure a source that does not pay.
    """

    length: int
    throughput: float
    worst_loss_s: float
    is_probe: bool = False


class DraftSource:
    """One source of drafts. `now` is the number of all steps that were done, by which cooldowns are counted."""

    def __init__(self) -> None:
        self.state = SourceState(Phase.WARMUP)
        self.acceptance, self.times = AcceptanceRates(), StepTimes()
        self._n_steps = 0
        self._backoff_steps = 0  # of the last cooldown since drafts last paid

    def record(self, drafted: int, accepted: int, seconds: float, replayed: int) -> None:
        """Learn from a step of this source; one with `replayed` tokens tells nothing about its time."""
        self._n_steps += 1
        if not replayed:
            self.times.add(drafted, seconds)
        self.acceptance.add(drafted, accepted)
        if self.state.phase is Phase.WARMUP and self._n_steps >= WARMUP_STEPS:
            self.state = SourceState(Phase.ACTIVE)

    def options(self, max_length: int, plain_s: float, replay_s: float) -> list[DraftOption]:
        """Drafts of 1 to `max_length` tokens; `replay_s` is what one that is wrong costs later."""
        options, tokens, reached = [], 1.0, 1.0
        for length, seconds in enumerate(self.times.curve(max_length, plain_s)[1:], 1):
            reached *= self.acceptance.at(length - 1)
            tokens += reached
            throughput = tokens / (seconds + (1 - reached) * replay_s)
            options.append(DraftOption(length, throughput, self._worst_loss(length, seconds, plain_s, replay_s)))
        return options

    def _worst_loss(self, length: int, seconds: float, plain_s: float, replay_s: float) -> float:
        """The seconds that a step may lose: all of the draft may be wrong, or it may take longer than expected."""
        if not self.times.count:
            is_known = self.acceptance.count >= WARMUP_STEPS
            risk = 1 - self.acceptance.all_accepted(length) if is_known else 1.0
            return risk * _WORST_COST_PER_TOKEN * length * plain_s
        if self.state.phase is Phase.WARMUP:
            return (1 - self.acceptance.at(0)) * (seconds - plain_s + replay_s)
        return 0.0

    def is_ready(self, now: int) -> bool:
        """Whether it may be asked. A cooldown whose steps are done ends here."""
        if self.state.phase is Phase.COOLDOWN and now >= self.state.ends_at:
            self.end_cooldown()
        return self.state.phase is not Phase.COOLDOWN

    def cooldown_steps(self, now: int) -> int:
        """The steps that are left of a cooldown; 0 if it is over, or if there is none."""
        return max(0, self.state.ends_at - now)

    def end_cooldown(self) -> None:
        """Let it be asked again."""
        self.state = SourceState(Phase.WARMUP if self._n_steps < WARMUP_STEPS else Phase.ACTIVE)

    def note_payoff(self) -> None:
        """Drafts pay: the next cooldown is a short one."""
        self._backoff_steps = 0

    def defer(self, now: int, steps: int) -> None:
        """Start a cooldown of `steps` because the budget is too small for the cheapest draft that pays."""
        self.state = SourceState(Phase.COOLDOWN, now + steps, is_over_budget=True)

    def may_probe(self, max_length: int, plain_s: float) -> bool:
        """Whether it has cooled down since drafts last paid, and long enough, so that it may be measured again."""
        needed = _NEVER_PAYS_COOLDOWN if self._can_never_pay(max_length, plain_s) else _FIRST_COOLDOWN
        return self._backoff_steps >= needed

    def back_off(self, now: int, max_length: int, plain_s: float) -> None:
        """Start a cooldown because drafts of up to `max_length` tokens do not pay; each is twice the last."""
        steps = min(2 * self._backoff_steps, _MAX_COOLDOWN) or _FIRST_COOLDOWN
        self._backoff_steps = _NEVER_PAYS_COOLDOWN if self._can_never_pay(max_length, plain_s) else steps
        self.state = SourceState(Phase.COOLDOWN, now + self._backoff_steps)

    def _can_never_pay(self, max_length: int, plain_s: float) -> bool:
        """Whether drafts would not even pay if all were accepted: then it is no matter of the text."""
        if self.times.count < 2:  # one may have been held up
            return False
        curve = self.times.curve(max_length, plain_s)
        return all(seconds > (1 + length) * plain_s for length, seconds in enumerate(curve[1:], 1))
