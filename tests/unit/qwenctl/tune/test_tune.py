"""`qwenctl tune`: its candidates, when one counts as faster, the search, and the stored result that later loads use."""

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
from qwenctl.tune.search import Tuning, compare_rounds, search
from tests.support.tuned import FOUND

BASELINE = TuningBaseline(PlacementConstraints(), LoadParams(threads=8), 8, 2048, cpu_experts=30, expert_layers=40)


# ------------------------------------------------------------------ verdicts


def test_verdict_steady_gain_is_faster_and_noise_is_not() -> None:
    steady = compare_rounds([1.0, 1.1, 0.9, 1.0], [0.9, 1.0, 0.8, 0.91])
    assert steady.is_faster
    assert steady.gain == pytest.approx(1.11, abs=0.01)
    assert not compare_rounds([1.0, 1.3, 0.8, 1.0], [0.9, 0.9, 1.1, 1.0]).is_faster
    assert not compare_rounds([1.0, 1.0, 1.0], [0.995, 0.995, 0.995]).is_faster  # too small a gain
    assert not compare_rounds([1.0, 1.0], [0.5, 0.5]).is_faster  # two rounds are too few
    assert not compare_rounds([], []).is_faster


SECONDS = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), max_size=9)


@given(SECONDS)
def test_verdict_of_swapped_sides_is_never_faster_both_ways(pairs: list[tuple[float, float]]) -> None:
    base, other = [one for one, _ in pairs], [two for _, two in pairs]
    there, back = compare_rounds(base, other), compare_rounds(other, base)
    assert not (there.is_faster and back.is_faster)
    assert there.gain * back.gain == pytest.approx(1)
    assert not there.is_faster or there.gain > 1


# ------------------------------------------------------------------ candidates


def names(baseline: TuningBaseline) -> list[str]:
    return [change.name for changes in candidate_groups(baseline) for change in changes]


def test_candidates_vary_threads_experts_and_micro_batches_around_plan() -> None:
    assert names(BASELINE) == [
        "7 threads", "4 threads",
        "experts of 29 layers in RAM", "experts of 31 layers in RAM", "experts of 32 layers in RAM",
        "micro-batch 256", "micro-batch 1,024", "micro-batch 2,048",
    ]  # fmt: skip
    assert names(replace(BASELINE, try_kv_types=True))[-1] == "KV cache q8_0"
    busy = replace(BASELINE, settings=LoadParams(threads=5))  # three cores were busy when the plan was made
    assert names(busy)[:4] == ["8 threads", "6 threads", "4 threads", "2 threads"]


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 60), st.integers(0, 8192))
def test_candidates_stay_within_limits_of_machine_and_model(cores: int, threads: int, in_ram: int, prompt: int) -> None:
    baseline = TuningBaseline(
        PlacementConstraints(), LoadParams(threads=min(threads, cores)), cores, prompt, in_ram, 60
    )
    for changes in candidate_groups(baseline):
        for change in changes:
            fields = dict(change.fields)
            assert 1 <= fields.get("threads", 1) <= cores
            assert 0 <= fields.get("cpu_experts", 0) <= 60
            assert replace(PlacementConstraints(), **fields) != PlacementConstraints()


def test_candidates_leave_out_settings_fixed_by_user() -> None:
    fixed = PlacementConstraints(threads=2, micro_batch=64, cpu_experts=10, cache_k="q4_0")
    assert names(replace(BASELINE, constraints=fixed, try_kv_types=True)) == []
    assert names(replace(BASELINE, cpu_experts=None))[2:] == [
        "micro-batch 256",
        "micro-batch 1,024",
        "micro-batch 2,048",
    ]


# ------------------------------------------------------------------ the search


def tune(measure: Callable[[PlacementConstraints], float], limit_s: float = 60) -> Tuning:
    return search(PlacementConstraints(), candidate_groups(BASELINE), measure, limit_s, lambda _: None)


def cost(constraints: PlacementConstraints) -> float:
    """A machine on which 4 threads and a micro-batch of 2,048 are fastest, together twice as fast as the plan."""
    threads, tokens = constraints.threads or 8, constraints.micro_batch or 512
    return (1.0 if threads == 4 else 1.5) * (1.0 if tokens == 2048 else 4 / 3)


def test_search_finds_best_candidate_of_each_group() -> None:
    tuning = tune(cost)
    assert tuning.changes == {"threads": 4, "micro_batch": 2048}
    assert tuning.names == ("4 threads", "micro-batch 2,048")
    assert tuning.verdict.gain == pytest.approx(2)
    assert tuning.is_complete


def test_search_keeps_plan_that_is_fastest() -> None:
    tuning = tune(lambda constraints: 1.0 if constraints == PlacementConstraints() else 1.2)
    assert (tuning.changes, tuning.rounds, len(tuning.trials)) == ({}, 0, 9)


def test_search_rejects_candidate_that_was_faster_only_once() -> None:
    seen: dict[PlacementConstraints, int] = {}

    def measure(constraints: PlacementConstraints) -> float:
        seen[constraints] = seen.get(constraints, 0) + 1
        return 0.5 if constraints.threads == 4 and seen[constraints] == 1 else 1.0

    tuning = tune(measure)
    assert (tuning.changes, tuning.names) == ({}, ())
    assert tuning.rounds >= 3


@given(st.integers(0, 10_000))
def test_search_result_was_faster_in_its_own_rounds(seed: int) -> None:
    chance = random.Random(seed)
    tuning = tune(lambda _: chance.lognormvariate(0, 0.2))
    pairs = [trial for trial in tuning.trials if ", round" in trial.name]
    base = [trial.seconds or 0 for trial in pairs if trial.name.startswith("as planned")]
    tuned = [trial.seconds or 0 for trial in pairs if trial.name.startswith("tuned")]
    assert len(base) == len(tuned) == tuning.rounds
    assert not tuning.changes or compare_rounds(base, tuned).is_faster


def test_search_on_pure_noise_rarely_changes_plan() -> None:
    chance = random.Random(0)
    wins = sum(bool(tune(lambda _: chance.lognormvariate(0, 0.1)).changes) for _ in range(400))
    assert wins <= 40  # a one-sided test at two standard errors, with few rounds


def test_search_skips_candidate_that_does_not_load() -> None:
    def measure(constraints: PlacementConstraints) -> float:
        if constraints.cpu_experts == 29:
            raise QwenctlError("no room")
        return 0.8 if constraints.cpu_experts == 31 else 1.0

    tuning = tune(measure)
    assert tuning.changes == {"cpu_experts": 31}
    assert [trial.why_not for trial in tuning.trials if trial.seconds is None] == ["no room"]


def test_search_ends_within_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("qwenctl.tune.search.time", SimpleNamespace(monotonic=lambda: now[0]))

    def measure(_: PlacementConstraints) -> float:
        now[0] += 0.05
        return 1.0

    tuning = tune(measure, limit_s=0.5)
    assert now[0] <= 100.5
    assert not tuning.is_complete
    assert tune(measure, limit_s=0).trials[0].name == "as planned"


def test_search_with_plan_that_does_not_load_fails() -> None:
    def measure(_: PlacementConstraints) -> float:
        raise QwenctlError("no room")

    with pytest.raises(QwenctlError, match="cannot be loaded as planned: no room"):
        tune(measure)


# ------------------------------------------------------------------ stored results


@pytest.fixture
def model(toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy model, with no stored result."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return toy_gguf


def test_stored_tuning_is_found_for_same_model_only(model: Path, tmp_path: Path) -> None:
    assert store.load_tuning(model) is None
    store.save_tuning(model, FOUND)
    assert store.load_tuning(model) == FOUND
    other = tmp_path / "other.gguf"
    other.write_bytes(model.read_bytes()[:-1])
    assert store.load_tuning(other) is None
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    assert store.load_tuning(copy) == FOUND
    assert store.delete_tuning(model)
    assert store.load_tuning(model) is None
    assert not store.delete_tuning(model)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"changes": {"load_mode": "none"}, "gain": 1, "alike": {}, "measured": ""}',
             '{"changes": {"threads": "8"}, "gain": 1, "alike": {}, "measured": ""}', '{"changes": {}}'],
)  # fmt: skip
def test_stored_tuning_that_is_damaged_is_ignored(text: str, model: Path) -> None:
    store.save_tuning(model, FOUND).write_text(text)
    assert store.load_tuning(model) is None


def test_stored_tuning_changes_no_requested_setting() -> None:
    asked = PlacementConstraints(threads=3, context=4096)
    assert store.apply_tuning(asked, None) == asked
    assert store.apply_tuning(asked, FOUND) == replace(asked, micro_batch=64, cpu_experts=12)
    chat = replace(asked, mtp=True, draft="auto", vision_bytes=1 << 30)  # what a chat requests
    assert store.apply_tuning(chat, FOUND) == replace(chat, micro_batch=64, cpu_experts=12)
    # Experts take memory: with another context they may not fit, and a result says nothing about other devices.
    assert store.apply_tuning(PlacementConstraints(), FOUND) == PlacementConstraints(threads=1, micro_batch=64)
    elsewhere = PlacementConstraints(context=4096, rpc=("127.0.0.1:50052",))
    assert store.apply_tuning(elsewhere, FOUND) == replace(elsewhere, threads=1, micro_batch=64)
    settings = LoadParams()
    assert store.with_tuned_threads(settings, FOUND) == replace(settings, threads=1)
    assert store.with_tuned_threads(replace(settings, threads=2), FOUND).threads == 2
    assert store.with_tuned_threads(settings, None) == settings
    assert store.fixed_constraints(elsewhere) == {"context": 4096, "rpc": ["127.0.0.1:50052"]}
