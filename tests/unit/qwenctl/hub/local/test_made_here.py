"""What was quantized here is found by its plan: in the lock file beside it, or among the models of `ls`."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantize.plan import ConversionPlan, QuantizeOptions, make_plan
from qwenctl.hub.local.lock_file import LOCK_NAME, read_lock
from qwenctl.hub.local.made_here import find_made_hashes, record_made

OPTIONS = QuantizeOptions("Q8_0")
HASHES = ("1" * 64, "2" * 64)


@pytest.fixture
def plan(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConversionPlan:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return make_plan(toy, tmp_path / "out.gguf", OPTIONS)


def test_recorded_hashes_are_found_by_each_of_both_records(plan: ConversionPlan, tmp_path: Path) -> None:
    assert find_made_hashes(plan) == ()
    record_made(plan, OPTIONS, HASHES)
    assert find_made_hashes(plan) == HASHES
    [entry] = read_lock(tmp_path / LOCK_NAME)
    assert [(file.path, file.size) for file in entry.outputs] == [(one.path.name, one.n_bytes) for one in plan.files]
    (tmp_path / LOCK_NAME).unlink()
    assert find_made_hashes(plan) == HASHES  # by the list of models
    record_made(plan, OPTIONS, HASHES)
    (tmp_path / "state" / "qwenctl" / "models.jsonl").unlink()
    assert find_made_hashes(plan) == HASHES  # by the lock file


def test_hashes_of_another_plan_are_not_found(plan: ConversionPlan, toy: Path, tmp_path: Path) -> None:
    record_made(plan, OPTIONS, HASHES)
    assert find_made_hashes(make_plan(toy, tmp_path / "out.gguf", QuantizeOptions("Q4_0"))) == ()


def test_same_record_is_written_once(plan: ConversionPlan, tmp_path: Path) -> None:
    models = tmp_path / "state" / "qwenctl" / "models.jsonl"
    (tmp_path / "out.gguf").touch()
    record_made(plan, OPTIONS, HASHES)
    before = models.read_bytes(), (tmp_path / LOCK_NAME).stat().st_mtime_ns
    record_made(plan, OPTIONS, HASHES)
    assert (models.read_bytes(), (tmp_path / LOCK_NAME).stat().st_mtime_ns) == before
