"""`qwenctl tune`, and the commands that use its saved settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenctl.files.paths import tuned_folder
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.tune import store as saved
from qwenctl.tune.store import TuningResult
from tests.support.cli_runner import outcome, run
from tests.support.rpc_server import rpc_server
from tests.support.tuned import FOUND


@pytest.fixture
def model(toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy model, without saved settings."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return toy_gguf


def test_tuned_settings_are_used_until_forgotten(model: Path) -> None:
    bench = ["bench", str(model), "-p", "8", "-n", "1", "-r", "1", "--json"]
    saved.save_tuning(model, FOUND)
    report = json.loads(run(*bench).stdout)
    assert (report["n_threads"], report["n_ubatch"]) == (1, 64)
    assert json.loads(run(*bench, "-ub", "32").stdout)["n_ubatch"] == 32
    done = run("tune", str(model), "--forget")
    assert done.stderr.decode() == f"removed the saved settings of {model.name}\n"
    assert json.loads(run(*bench, "-t", "1").stdout)["n_ubatch"] == 512


def test_tune_reports_trials_and_saves_faster_settings(model: Path) -> None:
    done = run("tune", str(model), "-t", "1", "-p", "4", "-n", "2", "--kv", "--time-limit", "40s", "--json")
    report = json.loads(done.stdout)
    assert [trial["name"] for trial in report["trials"][:2]] == ["as planned", "KV cache q8_0"]
    assert all(trial["seconds"] > 0 for trial in report["trials"])
    assert bool(report["changes"]) == report["verdict"]["is_faster"] == bool(report["kept_in"])
    assert bool(report["changes"]) == bool(list(tuned_folder().iterdir()))


def test_tune_with_a_plan_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    assert outcome("tune", str(model), "--plan", str(tmp_path / "plan.json"))[0] == "--plan leaves nothing to tune"


def test_plan_shows_the_tuned_settings(model: Path) -> None:
    def plan() -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(run("plan", str(model), "--json").stdout)
        return fields

    before = plan()
    saved.save_tuning(model, FOUND)
    after = plan()
    assert (before["settings"]["micro_batch_tokens"], after["settings"]["micro_batch_tokens"]) == (512, 64)
    assert set(after["reasons"]) - set(before["reasons"]) == {"uses the faster settings found by `qwenctl tune`"}


def test_tuned_experts_that_do_not_fit_are_placed_by_the_plan(model: Path) -> None:
    with rpc_server(20 << 20) as endpoint:
        options = ["-c", "512", "-t", "1", "--rpc", endpoint, "--fit-target", "12"]
        constraints = PlacementConstraints(context=512, threads=1, fit_targets=(12 << 20,), rpc=(endpoint,))
        saved.save_tuning(
            model,
            TuningResult(
                {"cpu_experts": 0, "micro_batch": 64}, 1.5, saved.fixed_constraints(constraints), "2026-11-24"
            ),
        )
        plan = json.loads(run("plan", str(model), *options, "--json").stdout)
        done = run("bench", str(model), *options, *"-p 0 -n 1 -r 1 --json".split())
    assert plan["settings"]["micro_batch_tokens"] == 64
    in_ram = [part for part in plan["memories"][0]["parts"] if part["kind"] == "routed experts"]
    assert in_ram
    assert json.loads(done.stdout)["n_ubatch"] == 64
