"""How many tokens to draft next, 0 included: decided from what drafting has cost and brought so far.

Steps that were done come in, with their seconds and the tokens that were accepted; a source and a length for the next
step go out. A step of length L is worth 1 + a1 + a1 a2 + ... tokens, where ai is the share of drafts accepted at place
i after those before it were (Leviathan et al. 2023, section 3), and the length with the most tokens a second is taken.
What is not measured is estimated from what is. The answer is never put at risk for more than a small share of its
time: what drafting has lost against plain steps is kept as an account. What drafts are, and how they are verified, is
not known here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

_MAX_SLOWDOWN = 0.015  # of an answer's time
_MIN_SPEEDUP = 1.02  # tokens a second, against plain steps
_WARMUP_STEPS, _REMEASURE_EVERY = 3, 32  # plain steps are measured before all others, and now and then again
# Plain steps in which a source that does not pay is left alone, twice as many each time; after as many as the first of
# these it is tried again, for texts change, and a measurement may have been bad.
_RETRY_AFTER, _MAX_COOLDOWN = 16, 1024
_HOPELESS_COOLDOWN = 4096  # where the text does not matter, for the steps are too long
_LITTLE_REST = 2
_QUIET_STEPS = 64  # at most, on end, of which no time is taken
_KEPT_STEPS, _FEW_STEPS = 8, 2  # of few the quickest counts, for any may have been held up
_OUTLIER_FACTOR = 2.5  # times what was expected: what a step takes longer is not its own fault
_EMA_ALPHA = 0.04  # weight of the last step in the shares
_POSITIONS = 4  # places at which shares are told apart; what comes later is like the last
_PRIOR_COUNT = 4  # as if so many had been seen before the first
_PRIOR_ACCEPTANCE = 0.6  # what is expected before anything is known (the published heads have 0.6 to 0.9)
_PRIOR_COST_PER_TOKEN = 0.3  # and by how much of a plain step each token more makes a step longer
_WORST_SLOPE = 1.0  # or may do so, before it is measured


@dataclass(frozen=True)
class DraftStep:
    """One evaluation: of one token, and beside it of `drafted` ones of `source`, of which `accepted` were right.

    `again` tokens were evaluated with them that had been before, in a step in which others were wrong.
    """

    source: str
    drafted: int
    accepted: int
    seconds: float
    replayed: int = 0


@dataclass
class _DraftSource:
    """What is known of one source of drafts."""

    acceptance_rates: list[float] = field(
        default_factory=lambda: [_PRIOR_ACCEPTANCE]
    )  # by place, as far as one was reached
    seen: list[int] = field(default_factory=lambda: [0])  # and how often
    seconds: dict[int, deque[float]] = field(default_factory=dict)
    median_seconds: dict[int, float] = field(default_factory=dict)
    steps: int = 0
    cooldown: int = 0
    last_rest: int = 1
    blocked_loss: float = 0.0  # what it may lose, where that was more than the account allows

    def learn(self, step: DraftStep) -> None:
        self.steps += 1
        if not step.replayed:
            times = self.seconds.setdefault(step.drafted, deque(maxlen=_KEPT_STEPS))
            times.append(step.seconds)
            self.median_seconds[step.drafted] = _middle(times) if len(times) > _FEW_STEPS else min(times)
        self.see(step.drafted, step.accepted)

    def see(self, drafted: int, accepted: int) -> None:
        """Learn the shares from a draft, whether it was made or would have been."""
        for place in range(min(accepted + 1, drafted)):
            at = min(place, _POSITIONS - 1)
            if at == len(self.acceptance_rates):
                self.acceptance_rates.append(self._share(at))
                self.seen.append(0)
            self.seen[at] += 1
            weight = max(_EMA_ALPHA, 1 / (self.seen[at] + _PRIOR_COUNT))
            self.acceptance_rates[at] += weight * ((place < accepted) - self.acceptance_rates[at])

    def back_off(self, at_least: int = 0) -> None:
        """It does not pay: leave it alone for a while, and for longer if it still does not."""
        self.cooldown = self.last_rest = max(at_least, min(2 * self.last_rest, _MAX_COOLDOWN))

    def can_never_pay(self, most: int, plain: float) -> bool:
        """Whether not even drafts of up to `most` tokens that are all right would pay, by more than one measurement."""
        if sum(map(len, self.seconds.values())) < _FEW_STEPS:
            return False
        return all(self.expected_seconds(length, plain) > (1 + length) * plain for length in range(1, most + 1))

    def throughput_by_length(self, most: int, plain: float, again: float) -> Iterator[tuple[int, float, float]]:
        """Each length up to `most`, with its tokens a second and its seconds; a wrong draft costs `again` later."""
        tokens = reached = 1.0
        for length in range(1, most + 1):
            reached *= self._share(length - 1)
            tokens += reached
            seconds = self.expected_seconds(length, plain)
            yield length, tokens / (seconds + (1 - reached) * again), seconds

    def expected_seconds(self, length: int, plain: float) -> float:
        """Of a step of `length`: measured, or estimated from the lengths that were.

        The first draft costs more than each further one: the state is forked, and libllama makes another graph.
        """
        if length in self.median_seconds:
            return self.median_seconds[length]
        shorter = max((other for other in self.median_seconds if other < length), default=0)
        longer = min((other for other in self.median_seconds if other > length), default=0)
        begin = self.median_seconds.get(shorter, plain)
        if longer:
            return begin + (self.median_seconds[longer] - begin) * (length - shorter) / (longer - shorter)
        average = (begin / plain - 1) / shorter if shorter else _PRIOR_COST_PER_TOKEN
        return begin + plain * min(max(average, 0.0), _PRIOR_COST_PER_TOKEN) * (length - shorter)

    def all_accepted_probability(self, length: int) -> float:
        """The share of drafts of `length` that are all right; 0 before enough of them were seen."""
        return math.prod(self._share(place) for place in range(length)) if self.seen[0] >= _KEPT_STEPS else 0.0

    def _share(self, place: int) -> float:
        """Of a place that was never reached, what is expected of any, or what the place before it has."""
        at = min(place, _POSITIONS - 1)
        return (
            self.acceptance_rates[at]
            if at < len(self.acceptance_rates)
            else max(_PRIOR_ACCEPTANCE, self.acceptance_rates[-1])
        )


class DraftController:
    """Chooses, from `shortest` tokens up; its measurements last as long as it does, the account for one answer."""

    def __init__(self, shortest: int = 0) -> None:
        self._shortest = shortest
        self._plain_steps = deque[float](maxlen=2 * _KEPT_STEPS)
        self._plain, self._plain_count = 0.0, 0
        self._again = deque[float](maxlen=_KEPT_STEPS)  # what it cost to evaluate tokens again, after a wrong draft
        self._sources: dict[str, _DraftSource] = {}
        self._since_plain = 0
        self._elapsed = self._loss = 0.0

    def start_answer(self, seconds: float) -> None:
        """A new answer, which has taken `seconds` so far, for its prompt."""
        self._elapsed, self._loss = seconds, 0.0
        for source in self._sources.values():
            if source.blocked_loss:
                self._defer(source, source.blocked_loss)

    def cooldown_steps(self, source: str) -> int:
        """For how many steps nothing will be asked of `source`; 0 also where it is hardly worth a rest."""
        rest = self._sources[source].cooldown if source in self._sources else 0
        return max(0, rest - _LITTLE_REST)

    def unmeasured_steps(self, source: str) -> int:
        """How many plain steps may follow of which no time is taken, while nothing but `source` could draft."""
        if self._shortest or len(self._plain_steps) < _KEPT_STEPS:
            return 0
        return min(self.cooldown_steps(source), _QUIET_STEPS) if source else _QUIET_STEPS

    def record_unmeasured(self, steps: int) -> None:
        """Count plain steps of which no time was taken."""
        self._elapsed += steps * self._plain
        for source in self._sources.values():
            source.cooldown = max(0, source.cooldown - steps)

    def choose(self, possible: Mapping[str, int]) -> tuple[str, int]:
        """The source and the length of the next step, of those that are `possible`; ("", 0) is a plain step."""
        if self._shortest:
            most, longest = max(((most, source) for source, most in possible.items()), default=(0, ""))
            return (longest, most) if most else ("", 0)
        if len(self._plain_steps) < _WARMUP_STEPS or self._since_plain >= _REMEASURE_EVERY:
            return "", 0
        best, best_rate = ("", 0), 0.0
        for name, most in possible.items():
            source = self._sources.setdefault(name, _DraftSource())
            length, rate = self._best_length(source, most) if most and not source.cooldown else (0, 0.0)
            if length and not rate:
                source.back_off()
                return name, length
            if rate > best_rate:
                best, best_rate = (name, length), rate
        return best

    def may_draft(self, name: str, most: int) -> bool:
        """Whether `most` tokens of a source might be chosen soon, so that it should get ready.

        One that would not be is left alone for a while.
        """
        if self._shortest or len(self._plain_steps) < _WARMUP_STEPS:
            return True
        source = self._sources.setdefault(name, _DraftSource())
        return not source.cooldown and self._best_length(source, most)[0] > 0

    def record_hypothetical(self, name: str, drafted: int, accepted: int) -> bool:
        """Learn from a draft that was not made: `accepted` of its tokens would have been right; whether to ask again.

        Where all of them would have been, the source need not rest any longer.
        """
        source = self._sources.setdefault(name, _DraftSource())
        source.see(drafted, accepted)
        if accepted == drafted:
            source.cooldown = 0
        return not source.cooldown

    def record_plain(self, seconds: float) -> None:
        """Learn from a step in which one token was evaluated, and nothing else."""
        self._elapsed += seconds
        self._since_plain = 0
        self._plain_steps.append(seconds)
        self._plain_count += 1
        if self._plain_count <= _KEPT_STEPS or self._plain_count % _WARMUP_STEPS == 0:
            self._plain = _middle(self._plain_steps)
        for source in self._sources.values():
            source.cooldown -= source.cooldown > 0

    def record(self, step: DraftStep) -> None:
        """Learn from a step that is done."""
        if not (step.drafted or step.replayed):
            self.record_plain(step.seconds)
            return
        self._elapsed += step.seconds
        source = self._sources.setdefault(step.source, _DraftSource()) if step.drafted else None
        if self._plain:  # it is not known yet where drafts are made without a choice
            self._charge_loss(step, source)
        if source:
            self._since_plain += 1
            source.learn(step)

    def _charge_loss(self, step: DraftStep, source: _DraftSource | None) -> None:
        """Enter into the account what a step has cost more than plain ones, or less."""
        alone = source.expected_seconds(step.drafted, self._plain) if source else self._plain
        if step.replayed:
            self._again.append(max(0.0, step.seconds - alone))
        seconds = min(step.seconds, _OUTLIER_FACTOR * (alone + self._again_seconds()))
        self._loss += seconds - (1 + step.accepted) * self._plain

    def _again_seconds(self) -> float:
        return _middle(self._again) if self._again else _PRIOR_COST_PER_TOKEN * self._plain

    def _best_length(self, source: _DraftSource, most: int) -> tuple[int, float]:
        """The length that pays best, and its tokens a second, which are 0 where it is only tried; (0, 0) is none.

        A source of which none is to be drafted is left alone for a while.
        """
        best, best_rate = 0, _MIN_SPEEDUP / self._plain
        losses = []  # of the lengths that pay
        for length, rate, seconds in source.throughput_by_length(most, self._plain, self._again_seconds()):
            if rate > _MIN_SPEEDUP / self._plain:
                losses.append(self._worst_case_loss(source, length, seconds))
                if rate > best_rate and self._within_budget(losses[-1]):
                    best, best_rate = length, rate
        if losses:
            source.last_rest = 1
            self._defer(source, min(losses))
            return (best, best_rate) if best else (0, 0.0)
        worst = self._worst_case_loss(source, 1, source.expected_seconds(1, self._plain))
        is_hopeless = source.can_never_pay(most, self._plain)
        if source.last_rest >= (_HOPELESS_COOLDOWN if is_hopeless else _RETRY_AFTER) and self._within_budget(worst):
            return 1, 0.0
        source.back_off(_HOPELESS_COOLDOWN if is_hopeless else 0)
        return 0, 0.0

    def _worst_case_loss(self, source: _DraftSource, length: int, seconds: float) -> float:
        """What a step of `length` tokens, `seconds` long, may lose: nothing may be accepted, or less than was seen."""
        if not source.median_seconds:
            return 2 * _WORST_SLOPE * length * self._plain * (1 - source.all_accepted_probability(length))
        if source.steps < _KEPT_STEPS:
            return (1 - source.acceptance_rates[0]) * (seconds - self._plain + self._again_seconds())
        return 0.0

    def _within_budget(self, worst: float) -> bool:
        """Whether the account allows to lose so much more."""
        return self._loss + worst <= _MAX_SLOWDOWN * self._elapsed

    def _defer(self, source: _DraftSource, worst: float) -> None:
        """Leave a source alone until the account allows to lose `worst` by it, for it need not be asked before that."""
        source.blocked_loss = 0.0 if self._within_budget(worst) else worst
        if source.blocked_loss:
            steps = ((self._loss + worst) / _MAX_SLOWDOWN - self._elapsed) / self._plain
            source.cooldown = max(1, min(int(steps), _REMEASURE_EVERY))


def _middle(seconds: Collection[float]) -> float:
    """The median: a machine that does something else in between must not count."""
    return sorted(seconds)[len(seconds) // 2]
