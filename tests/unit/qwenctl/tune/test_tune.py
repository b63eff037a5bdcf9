"""`qwenctl tune`: what is tried, when something counts as faster, what is kept, and that later loads use it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import QwenctlError
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.protocol.load import LoadParams
from qwenctl.tune import store
from qwenctl.tune.candidates import TuningBaseline, candidate_groups
from qwenctl.tune.search import Tuning, search, verdict
from tests.support.tuned import FOUND

GROUND = TuningBaseline(PlacementConstraints(), LoadParams(threads=8), 8, 2048, cpu_experts=30, expert_layers=40)


# ------------------------------------------------------------------ faster, or not


def test_a_steady_gain_is_one_and_noise_is_none() -> None:
    steady = verdict([1.0, 1.1, 0.9, 1.0], [0.9, 1.0, 0.8, 0.91])
    assert steady.is_faster
    assert steady.gain == pytest.approx(1.11, abs=0.01)
    assert not verdict([1.0, 1.3, 0.8, 1.0], [0.9, 0.9, 1.1, 1.0]).is_faster
    assert not verdict([1.0, 1.0, 1.0], [0.995, 0.995, 0.995]).is_faster  # not worth a setting
    assert not verdict([1.0, 1.0], [0.5, 0.5]).is_faster  # two rounds show nothing
    assert not verdict([], []).is_faster


SECONDS = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), max_size=9)


@given(SECONDS)
def test_not_both_of_two_are_faster_than_the_other(pairs: list[tuple[float, float]]) -> None:
    base, other = [one for one, _ in pairs], [two for _, two in pairs]
    there, back = verdict(base, other), verdict(other, base)
    assert not (there.is_faster and back.is_faster)
    assert there.gain * back.gain == pytest.approx(1)
    assert not there.is_faster or there.gain > 1


# ------------------------------------------------------------------ what is tried


def names(ground: TuningBaseline) -> list[str]:
    return [change.name for changes in candidate_groups(ground) for change in changes]


def test_threads_experts_and_micro_batches_are_tried_around_the_plan() -> None:
    assert names(GROUND) == [
        "7 threads", "4 threads",
        "experts of 29 layers in RAM", "experts of 31 layers in RAM", "experts of 32 layers in RAM",
        "micro-batch 256", "micro-batch 1,024", "micro-batch 2,048",
    ]  # fmt: skip
    assert names(replace(GROUND, try_kv_types=True))[-1] == "KV cache q8_0"
    busy = replace(GROUND, settings=LoadParams(threads=5))  # three cores were taken when it was planned
    assert names(busy)[:4] == ["8 threads", "6 threads", "4 threads", "2 threads"]


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 60), st.integers(0, 8192))
def test_nothing_impossible_is_tried(cores: int, threads: int, in_ram: int, prompt: int) -> None:
    ground = TuningBaseline(PlacementConstraints(), LoadParams(threads=min(threads, cores)), cores, prompt, in_ram, 60)
    for changes in candidate_groups(ground):
        for change in changes:
            fields = dict(change.fields)
            assert 1 <= fields.get("threads", 1) <= cores
            assert 0 <= fields.get("cpu_experts", 0) <= 60
            assert replace(PlacementConstraints(), **fields) != PlacementConstraints()


def test_what_a_person_has_fixed_is_left_alone() -> None:
    fixed = PlacementConstraints(threads=2, micro_batch=64, cpu_experts=10, cache_k="q4_0")
    assert names(replace(GROUND, constraints=fixed, try_kv_types=True)) == []
    assert names(replace(GROUND, cpu_experts=None))[2:] == ["micro-batch 256", "micro-batch 1,024", "micro-batch 2,048"]


# ------------------------------------------------------------------ the search


def tune(measure: Callable[[PlacementConstraints], float], limit_s: float = 60) -> Tuning:
    return search(PlacementConstraints(), candidate_groups(GROUND), measure, limit_s, lambda _: None)


def cost(constraints: PlacementConstraints) -> float:
    """A machine on which 4 threads and a micro-batch of 2,048 are fastest, together twice as fast as the plan."""
    threads, tokens = constraints.threads or 8, constraints.micro_batch or 512
    return (1.0 if threads == 4 else 1.5) * (1.0 if tokens == 2048 else 4 / 3)


def test_the_best_of_each_kind_is_found() -> None:
    tuning = tune(cost)
    assert tuning.changes == {"threads": 4, "micro_batch": 2048}
    assert tuning.names == ("4 threads", "micro-batch 2,048")
    assert tuning.verdict.gain == pytest.approx(2)
    assert tuning.is_complete


def test_the_plan_stays_where_it_is_the_fastest() -> None:
    tuning = tune(lambda constraints: 1.0 if constraints == PlacementConstraints() else 1.2)
    assert (tuning.changes, tuning.rounds, len(tuning.trials)) == ({}, 0, 9)


def test_what_only_seemed_faster_loses_in_the_rounds() -> None:
    seen: dict[PlacementConstraints, int] = {}

    def measure(constraints: PlacementConstraints) -> float:
        seen[constraints] = seen.get(constraints, 0) + 1
        return 0.5 if constraints.threads == 4 and seen[constraints] == 1 else 1.0

    tuning = tune(measure)
    assert (tuning.changes, tuning.names) == ({}, ())
    assert tuning.rounds >= 3


@given(st.integers(0, 10_000))
def test_what_is_kept_was_faster_in_the_same_measurement(seed: int) -> None:
    chance = random.Random(seed)
    tuning = tune(lambda _: chance.lognormvariate(0, 0.2))
    pairs = [trial for trial in tuning.trials if ", round" in trial.name]
    base = [trial.seconds or 0 for trial in pairs if trial.name.startswith("as planned")]
    tuned = [trial.seconds or 0 for trial in pairs if trial.name.startswith("tuned")]
    assert len(base) == len(tuned) == tuning.rounds
    assert not tuning.changes or verdict(base, tuned).is_faster


def test_pure_noise_seldom_wins() -> None:
    chance = random.Random(0)
    wins = sum(bool(tune(lambda _: chance.lognormvariate(0, 0.1)).changes) for _ in range(400))
    assert wins <= 40  # a one-sided test at two standard errors, with few rounds


def test_a_candidate_that_does_not_load_is_passed_over() -> None:
    def measure(constraints: PlacementConstraints) -> float:
        if constraints.cpu_experts == 29:
            raise QwenctlError("no room")
        return 0.8 if constraints.cpu_experts == 31 else 1.0

    tuning = tune(measure)
    assert tuning.changes == {"cpu_experts": 31}
    assert [trial.why_not for trial in tuning.trials if trial.seconds is None] == ["no room"]


def test_it_ends_within_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("qwenctl.tune.search.time", SimpleNamespace(monotonic=lambda: now[0]))

    def measure(_: PlacementConstraints) -> float:
        now[0] += 0.05
        return 1.0

    tuning = tune(measure, limit_s=0.5)
    assert now[0] <= 100.5
    assert not tuning.is_complete
    assert tune(measure, limit_s=0).trials[0].name == "as planned"


def test_a_plan_that_does_not_load_is_an_error() -> None:
    def measure(_: PlacementConstraints) -> float:
        raise QwenctlError("no room")

    with pytest.raises(QwenctlError, match="cannot be loaded as planned: no room"):
        tune(measure)


# ------------------------------------------------------------------ what is kept


@pytest.fixture
def model(toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy, with nothing kept for it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return toy_gguf


def test_a_result_is_found_again_for_its_model_alone(model: Path, tmp_path: Path) -> None:
    assert store.find(model) is None
    store.keep(model, FOUND)
    assert store.find(model) == FOUND
    other = tmp_path / "other.gguf"
    other.write_bytes(model.read_bytes()[:-1])
    assert store.find(other) is None
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    assert store.find(copy) == FOUND
    assert store.forget(model)
    assert store.find(model) is None
    assert not store.forget(model)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"changes": {"load_mode": "none"}, "gain": 1, "alike": {}, "measured": ""}',
             '{"changes": {"threads": "8"}, "gain": 1, "alike": {}, "measured": ""}', '{"changes": {}}'],
)  # fmt: skip
def test_a_damaged_result_is_none(text: str, model: Path) -> None:
    store.keep(model, FOUND).write_text(text)
    assert store.find(model) is None


def test_a_result_changes_nothing_that_was_asked_for() -> None:
    asked = PlacementConstraints(threads=3, context=4096)
    assert store.apply_tuning(asked, None) == asked
    assert store.apply_tuning(asked, FOUND) == replace(asked, micro_batch=64, cpu_experts=12)
    chat = replace(asked, mtp=True, draft="auto", vision_bytes=1 << 30)  # as a chat asks
    assert store.apply_tuning(chat, FOUND) == replace(chat, micro_batch=64, cpu_experts=12)
    # Experts take memory: under another context they may have no room, and other devices are another matter.
    assert store.apply_tuning(PlacementConstraints(), FOUND) == PlacementConstraints(threads=1, micro_batch=64)
    elsewhere = PlacementConstraints(context=4096, rpc=("127.0.0.1:50052",))
    assert store.apply_tuning(elsewhere, FOUND) == replace(elsewhere, threads=1, micro_batch=64)
    settings = LoadParams()
    assert store.with_tuned_threads(settings, FOUND) == replace(settings, threads=1)
    assert store.with_tuned_threads(replace(settings, threads=2), FOUND).threads == 2
    assert store.with_tuned_threads(settings, None) == settings
    assert store.fixed_constraints(elsewhere) == {"context": 4096, "rpc": ["127.0.0.1:50052"]}
