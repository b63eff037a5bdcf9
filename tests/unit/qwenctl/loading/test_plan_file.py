"""A plan for a local file: from a file that was made for it, or new where there is no device to try it on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from qwenctl.commands.options.load_options import with_drafts
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.loading.open_model import load_plan_file, resolve
from qwenctl.machine.profile import GIB, Machine
from qwenctl.placement.constraints import LoadRequest, PlacementConstraints
from qwenctl.placement.engine_args import constraints_of, load_params
from qwenctl.placement.plan import Plan
from qwenctl.placement.plan_file import to_json
from qwenctl.placement.planner import make_plan
from qwenctl.placement.tensor_inventory import from_gguf
from qwenctl.placement.trial_load import plan_with_dry_load
from tests.support.example_plan import EXAMPLE_PLAN

Draft = Literal["auto", "mtp", "ngram", "off"]
MACHINE = Machine(64 * GIB, 48 * GIB, 60e9, 8)


@pytest.fixture
def plan(toy_gguf: Path) -> Plan:
    return make_plan(from_gguf(toy_gguf), MACHINE, PlacementConstraints())


def test_plan_without_devices_is_not_tried(plan: Plan, toy_gguf: Path) -> None:
    assert plan_with_dry_load(from_gguf(toy_gguf), MACHINE, PlacementConstraints()) == plan


def test_plan_of_the_same_model_is_read_back(plan: Plan, toy_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(to_json(plan))
    assert load_plan_file(tmp_path / "plan.json", toy_gguf) == plan


def test_plan_of_another_model_is_refused_with_the_command_that_makes_one(toy_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(to_json(EXAMPLE_PLAN))
    with pytest.raises(QwenctlError, match=r"plan\.json is a plan for Qwen3\.5-35B, not for toy-Q8_0\.gguf") as caught:
        load_plan_file(tmp_path / "plan.json", toy_gguf)
    assert caught.value.code == ExitCode.BAD_DATA
    assert caught.value.hint == f"qwenctl plan {toy_gguf} --json > {tmp_path / 'plan.json'}"


def test_file_that_is_no_plan_is_refused(toy_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(QwenctlError, match=r"plan\.json is not a plan"):
        load_plan_file(tmp_path / "plan.json", toy_gguf)


@pytest.mark.parametrize("planned", ["auto", "ngram", "off"])
@pytest.mark.parametrize("asked", ["auto", "mtp", "ngram", "off"])
def test_drafts_that_are_asked_for_replace_those_of_the_plan(
    plan: Plan, toy_gguf: Path, tmp_path: Path, planned: Draft, asked: Draft
) -> None:
    settings = replace(plan.settings, draft=planned, draft_max=5)
    (tmp_path / "plan.json").write_text(to_json(replace(plan, settings=settings)))
    for most in (0, 2):
        load = with_drafts(LoadRequest(plan=tmp_path / "plan.json"), asked, most, 0)
        expected = replace(settings, draft=planned if asked == "auto" else asked, draft_max=most or 5)
        assert resolve(toy_gguf, load).params == expected


@pytest.mark.parametrize("draft", ["auto", "mtp", "ngram", "off"])
def test_smaller_plan_drafts_as_the_saved_one(draft: Draft) -> None:
    constraints = with_drafts(LoadRequest(), draft, 4, 2).constraints
    assert constraints_of(load_params(constraints)).mtp == constraints.mtp
    assert load_params(constraints_of(load_params(constraints))).draft == draft
