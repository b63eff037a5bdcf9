"""The number of decoding threads: all on an idle machine, the fastest number beside other programs.

A function from thread count to tokens per second describes the machine. Time and context switches are simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from qwenctl.engine.llama.thread_count import ThreadCount

Rates = Callable[[int], float]


@dataclass
class Simulated:
    """A machine that decodes at `rates` tokens per second; `others` says whether other programs use its processors."""

    rates: Rates
    others: bool = False
    now: float = 0.0
    switches: float = 0.0
    used: list[int] = field(default_factory=list)

    def count(self, most: int, *, is_fixed: bool = False, longest_step_s: float = 1e9) -> ThreadCount:
        return ThreadCount(
            most,
            self.used.append,
            is_fixed=is_fixed,
            longest_step_s=longest_step_s,
            switches=lambda: int(self.switches),
            clock=lambda: self.now,
        )

    def run(self, threads: ThreadCount, seconds: float) -> float:
        """Decode for `seconds`; returns tokens per second."""
        threads.begin()
        start, tokens = self.now, 0
        while self.now - start < seconds:
            took = 1 / self.rates(threads.current)
            self.now += took
            self.switches += took * threads.current * (150 if self.others else 5)
            threads.step()
            tokens += 1
        return tokens / (self.now - start)


def idle(threads: int) -> float:
    return 10.0 * threads


def small_beside_others(threads: int) -> float:
    """A small model: all threads wait for the one without a processor."""
    return 1000.0 if threads == 1 else 15.0


def large_beside_others(threads: int) -> float:
    return 10.0 * threads**0.5


@pytest.mark.parametrize("most", [1, 2, 7, 64])
def test_thread_count_idle_machine_uses_all_and_tries_nothing(most: int) -> None:
    machine = Simulated(idle)
    threads = machine.count(most)
    machine.run(threads, 20)
    assert (threads.current, set(machine.used)) == (most, {most})


@pytest.mark.parametrize("most", [2, 7, 64])
def test_thread_count_busy_machine_and_small_model_uses_one(most: int) -> None:
    machine = Simulated(small_beside_others, others=True)
    threads = machine.count(most)
    machine.run(threads, 5)
    assert machine.run(threads, 20) > 0.9 * small_beside_others(1)


@pytest.mark.parametrize("most", [2, 7, 64])
def test_thread_count_busy_machine_and_large_model_uses_all(most: int) -> None:
    machine = Simulated(large_beside_others, others=True)
    threads = machine.count(most)
    machine.run(threads, 10)
    assert machine.run(threads, 60) > 0.97 * large_beside_others(most)


def test_thread_count_returns_to_all_when_other_programs_end() -> None:
    machine = Simulated(small_beside_others, others=True)
    threads = machine.count(8)
    machine.run(threads, 20)
    assert threads.current < 8
    machine.rates, machine.others = idle, False
    machine.run(threads, 10)
    assert threads.current == 8
    machine.used.clear()
    machine.run(threads, 20)
    assert set(machine.used) == {8}


def test_thread_count_fixed_by_user_stays() -> None:
    machine = Simulated(small_beside_others, others=True)
    threads = machine.count(8, is_fixed=True)
    machine.run(threads, 5)
    assert (threads.current, set(machine.used)) == (8, {8})


def test_thread_count_with_long_steps_tries_nothing() -> None:
    machine = Simulated(lambda threads: 1.0, others=True)
    threads = machine.count(8, longest_step_s=0.25)
    machine.run(threads, 20)
    assert set(machine.used) == {8}


def test_thread_count_next_run_begins_with_count_found_before() -> None:
    machine = Simulated(small_beside_others, others=True)
    threads = machine.count(8)
    machine.run(threads, 5)
    machine.used.clear()
    threads.begin()  # other work may have changed the number in the meantime
    assert machine.used == [threads.current]
