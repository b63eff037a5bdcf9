"""`qwenctl tune` and the commands that use what it found."""

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
    """The toy, with nothing kept for it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return toy_gguf


def test_later_loads_use_it_until_it_is_forgotten(model: Path) -> None:
    bench = ["bench", str(model), "-p", "8", "-n", "1", "-r", "1", "--json"]
    saved.save_tuning(model, FOUND)
    told = json.loads(run(*bench).stdout)
    assert (told["n_threads"], told["n_ubatch"]) == (1, 64)
    assert json.loads(run(*bench, "-ub", "32").stdout)["n_ubatch"] == 32
    done = run("tune", str(model), "--forget")
    assert done.stderr.decode() == f"removed the saved settings of {model.name}\n"
    assert json.loads(run(*bench, "-t", "1").stdout)["n_ubatch"] == 512


def test_a_model_is_tuned_from_the_command_line(model: Path) -> None:
    done = run("tune", str(model), "-t", "1", "-p", "4", "-n", "2", "--kv", "--time-limit", "40s", "--json")
    told = json.loads(done.stdout)
    assert [trial["name"] for trial in told["trials"][:2]] == ["as planned", "KV cache q8_0"]
    assert all(trial["seconds"] > 0 for trial in told["trials"])
    assert bool(told["changes"]) == told["verdict"]["is_faster"] == bool(told["kept_in"])
    assert bool(told["changes"]) == bool(list(tuned_folder().iterdir()))


def test_a_plan_leaves_nothing_to_tune(model: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    assert outcome("tune", str(model), "--plan", str(tmp_path / "plan.json"))[0] == "--plan leaves nothing to tune"


def test_a_plan_is_shown_as_it_is_loaded(model: Path) -> None:
    def told() -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(run("plan", str(model), "--json").stdout)
        return fields

    before = told()
    saved.save_tuning(model, FOUND)
    after = told()
    assert (before["settings"]["micro_batch_tokens"], after["settings"]["micro_batch_tokens"]) == (512, 64)
    assert set(after["reasons"]) - set(before["reasons"]) == {"uses the faster settings found by `qwenctl tune`"}


def test_experts_lie_where_the_plan_puts_them_if_what_was_tuned_has_no_room(model: Path) -> None:
    with rpc_server(20 << 20) as endpoint:
        options = ["-c", "512", "-t", "1", "--rpc", endpoint, "--fit-target", "12"]
        asked = PlacementConstraints(context=512, threads=1, fit_targets=(12 << 20,), rpc=(endpoint,))
        saved.save_tuning(
            model,
            TuningResult({"cpu_experts": 0, "micro_batch": 64}, 1.5, saved.fixed_constraints(asked), "2026-11-24"),
        )
        told = json.loads(run("plan", str(model), *options, "--json").stdout)
        done = run("bench", str(model), *options, *"-p 0 -n 1 -r 1 --json".split())
    assert told["settings"]["micro_batch_tokens"] == 64
    in_ram = [part for part in told["memories"][0]["parts"] if part["kind"] == "routed experts"]
    assert in_ram
    assert json.loads(done.stdout)["n_ubatch"] == 64
