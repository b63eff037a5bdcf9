"""Decides how many tokens to draft next, and from which source: as many as give the most tokens a second, or none.

Steps that were done come in, with their seconds and the number of accepted tokens; the source and the length of the
next draft go out. A step of length L is worth 1 + a1 + a1 a2 + ... tokens, where ai is the acceptance rate at position
i (Leviathan et al. 2023, section 3). Drafts may cost an answer only a small share of its time, the loss budget.
docs/internals/speculative.md has the formula, the states of a source and the reasons for the constants. What drafts
are, and how they are verified, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwenctl.engine.speculative.draft_source import (
    PRIOR_COST_PER_TOKEN,
    WARMUP_STEPS,
    DraftOption,
    DraftSource,
    MovingAverage,
)

_MAX_SLOWDOWN = 0.015  # of an answer's time
_MIN_SPEEDUP = 1.02  # against plain steps
_MIN_PLAIN_STEPS = 3  # before the first draft
_REMEASURE_EVERY = 32  # steps with drafts after which a plain step is measured; the longest cooldown for the budget
_OUTLIER_FACTOR = 2.5  # a step that takes longer than that times what was expected was held up by something else
_NO_DRAFT = ("", 0)


@dataclass(frozen=True)
class DraftStep:
    """One evaluation: of one token, and with it of `drafted` tokens of `source`, of which `accepted` were right.

    `replayed` tokens were evaluated again in it, because the draft before it was wrong.
    """

    source: str
    drafted: int
    accepted: int
    seconds: float
    replayed: int = 0


@dataclass
class LossBudget:
    """What drafts may lose in one answer: a share of the seconds that it has taken."""

    elapsed_s: float = 0.0
    loss_s: float = 0.0  # against plain steps; below 0 where drafts have gained

    def allows(self, loss_s: float) -> bool:
        """Whether `loss_s` more may be lost."""
        return self.loss_s + loss_s <= _MAX_SLOWDOWN * self.elapsed_s

    def seconds_until(self, loss_s: float) -> float:
        """The time after which `loss_s` more may be lost."""
        return (self.loss_s + loss_s) / _MAX_SLOWDOWN - self.elapsed_s


class DraftController:
    """Chooses drafts. Its measurements last as long as it does, its budget for one answer.

    With `min_length` it does not choose, but always asks for the longest draft of at least one token.
    """

    def __init__(self, min_length: int = 0) -> None:
        self._min_length = min_length
        self._sources: dict[str, DraftSource] = {}
        self._budget = LossBudget()
        self._plain, self._replay = MovingAverage(), MovingAverage()
        self._n_steps = 0  # of any kind, by which cooldowns are counted
        self._since_plain = 0  # steps with drafts since a plain step was measured

    @property
    def knows_plain_time(self) -> bool:
        """Whether so many plain steps were measured that some need not be; never where it does not choose."""
        return not self._min_length and self._plain.count >= WARMUP_STEPS

    def start_answer(self, seconds: float) -> None:
        """Start an answer whose prompt took `seconds`, with a new budget."""
        self._budget = LossBudget(seconds)
        for source in self._sources.values():
            if source.state.is_over_budget:
                source.end_cooldown()

    def cooldown_steps(self, name: str) -> int:
        """The number of steps for which a source will not be asked."""
        source = self._sources.get(name)
        return source.cooldown_steps(self._n_steps) if source else 0

    def choose(self, max_lengths: Mapping[str, int]) -> tuple[str, int]:
        """The source and the length of the next draft; ("", 0) is a plain step.

        `max_lengths` are the longest drafts that can be had now, by source.
        """
        if self._min_length:
            length, name = max(((length, name) for name, length in max_lengths.items()), default=(0, ""))
            return (name, length) if length else _NO_DRAFT
        if self._plain.count < _MIN_PLAIN_STEPS or self._since_plain >= _REMEASURE_EVERY:
            return _NO_DRAFT
        options = {name: self._best_option(name, length) for name, length in max_lengths.items() if length}
        best = max(((option, name) for name, option in options.items() if option), key=_rank, default=None)
        if best is None:
            return _NO_DRAFT
        option, name = best
        if option.is_probe:  # whatever comes of it, the next one is made after a longer cooldown
            self._sources[name].back_off(self._n_steps, max_lengths[name], self._plain.value)
        return name, option.length

    def may_draft(self, name: str, max_length: int) -> bool:
        """Whether a source should get ready, because it may soon be asked; if not, it cools down."""
        if self._min_length or self._plain.count < _MIN_PLAIN_STEPS:
            return True
        return self._best_option(name, max_length) is not None

    def record(self, step: DraftStep) -> None:
        """Learn from a step that is done."""
        if not (step.drafted or step.replayed):
            self.record_plain(step.seconds)
            return
        self._n_steps += 1
        self._budget.elapsed_s += step.seconds
        if self._plain.count:  # where drafts are made without a choice there may be no plain step at all
            self._charge_loss(step)
        if step.drafted:
            self._since_plain += 1
            self._source(step.source).record(step.drafted, step.accepted, step.seconds, step.replayed)

    def record_plain(self, seconds: float | None = None) -> None:
        """Learn from a step in which one token was evaluated and nothing else; without `seconds` it was not timed."""
        self._n_steps += 1
        if seconds is None:
            self._budget.elapsed_s += self._plain.value
            return
        self._budget.elapsed_s += seconds
        self._since_plain = 0
        self._plain.add_step(seconds)

    def record_hypothetical(self, name: str, drafted: int, accepted: int) -> None:
        """Learn from a draft that was not made: `accepted` of its tokens would have been right.

        Where all would have been, a cooldown ends.
        """
        source = self._source(name)
        source.acceptance.add(drafted, accepted)
        if accepted == drafted:
            source.end_cooldown()

    def _source(self, name: str) -> DraftSource:
        return self._sources.setdefault(name, DraftSource())

    def _replay_s(self) -> float:
        return self._replay.value if self._replay.count else PRIOR_COST_PER_TOKEN * self._plain.value

    def _charge_loss(self, step: DraftStep) -> None:
        """Enter into the budget how much longer a step has taken than plain ones, or how much less."""
        plain_s = self._plain.value
        expected_s = self._source(step.source).times.curve(step.drafted, plain_s)[-1] if step.drafted else plain_s
        seconds = min(step.seconds, _OUTLIER_FACTOR * (expected_s + self._replay_s()))
        if step.replayed:
            self._replay.add(max(0.0, seconds - expected_s))
        self._budget.loss_s += seconds - (1 + step.accepted) * plain_s

    def _best_option(self, name: str, max_length: int) -> DraftOption | None:
        """The draft of up to `max_length` tokens with the most tokens a second, if it pays and the budget allows it.

        A source without such a draft starts a cooldown; after one it may be probed with a draft of one token.
        """
        source, plain_s = self._source(name), self._plain.value
        if not source.is_ready(self._n_steps):
            return None
        options = source.options(max_length, plain_s, self._replay_s())
        paying = [option for option in options if option.throughput > _MIN_SPEEDUP / plain_s]
        if paying:
            source.note_payoff()
            return self._affordable(source, paying)
        if source.may_probe(max_length, plain_s) and self._budget.allows(options[0].worst_loss_s):
            return DraftOption(1, 0.0, options[0].worst_loss_s, is_probe=True)
        source.back_off(self._n_steps, max_length, plain_s)
        return None

    def _affordable(self, source: DraftSource, paying: list[DraftOption]) -> DraftOption | None:
        """The best of `paying` that the budget allows; if there is none, `source` waits until there may be."""
        allowed = [option for option in paying if self._budget.allows(option.worst_loss_s)]
        if allowed:
            return max(allowed, key=lambda option: option.throughput)
        steps = self._budget.seconds_until(min(option.worst_loss_s for option in paying)) / self._plain.value
        source.defer(self._n_steps, max(1, min(int(steps), _REMEASURE_EVERY)))
        return None


def _rank(candidate: tuple[DraftOption, str]) -> tuple[bool, float]:
    option, _ = candidate
    return option.is_probe, option.throughput
