"""The options that say how a model is loaded become constraints, and what contradicts itself is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwenctl.commands.options.load_options import with_drafts, with_load_options, with_options
from qwenctl.errors import QwenctlError
from qwenctl.placement.constraints import ALL_EXPERTS, LoadRequest, PlacementConstraints


def load_request(settings: tuple[str, ...] = (), **options: Any) -> LoadRequest:
    """What a command with the load options gets; those not given have their defaults, and `settings` are not typed."""
    received: list[LoadRequest] = []

    def command(load: LoadRequest) -> None:
        received.append(load)

    with_options_ = with_load_options(command)
    defaults = {name: one.default for name, one in inspect.signature(with_options_).parameters.items()}
    typed = SimpleNamespace(name="COMMANDLINE")
    context = SimpleNamespace(
        command=SimpleNamespace(
            params=[SimpleNamespace(name=name, opts=["--x"], secondary_opts=[]) for name in defaults]
        ),
        params=options,
        get_parameter_source=lambda name: typed if name in options and name not in settings else None,
    )
    with_options_(**{**defaults, **options, "context": context})
    return received[0]


def test_options_by_default_constrain_nothing() -> None:
    assert load_request() == LoadRequest(PlacementConstraints())


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"ctx_size": 4096}, "context", 4096),
        ({"cpu_moe": True}, "cpu_experts", ALL_EXPERTS),
        ({"n_cpu_moe": 0}, "cpu_experts", 0),
        ({"rpc": ["a:1, b:2", "c:3"]}, "rpc", ("a:1", "b:2", "c:3")),
        ({"device": "CUDA0,CUDA1"}, "devices", ("CUDA0", "CUDA1")),
        ({"tensor_split": "3,1"}, "split", (3.0, 1.0)),
        ({"fit_target": (1 << 30,)}, "fit_targets", (1 << 30,)),
        ({"paging": True}, "paging", True),
        ({"batch_size": 512}, "batch", 512),
    ],
)
def test_option_becomes_a_constraint(options: dict[str, Any], field: str, value: object) -> None:
    assert getattr(load_request(**options).constraints, field) == value


def test_override_with_commas_in_brackets_stays_whole() -> None:
    overrides = load_request(override_tensor=[r"blk\.[0-9]{1,2}\.ffn=CPU,output=CUDA0"]).constraints.overrides
    assert len(overrides) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpu_moe": True, "n_cpu_moe": 3}, "--cpu-moe and --n-cpu-moe cannot be used together"),
        ({"tensor_split": "3,x"}, "-ts: 'x' is not a number"),
        ({"tensor_split": "-1"}, "-ts: -1 is out of range"),
        ({"tensor_split": "nan"}, "-ts: nan is out of range"),
        ({"plan": Path("plan.json"), "ctx_size": 1}, "--plan cannot be used with options that a plan sets"),
    ],
)
def test_options_that_contradict_each_other_or_are_no_numbers_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(QwenctlError, match=words):
        load_request(**options)


def test_plan_alone_is_taken() -> None:
    assert load_request(plan=Path("plan.json")).plan == Path("plan.json")


def test_typed_option_wins_over_what_the_settings_say() -> None:
    both: dict[str, Any] = {"plan": Path("plan.json"), "ctx_size": 4096}
    assert load_request(("ctx_size",), **both) == LoadRequest(plan=Path("plan.json"))
    assert load_request(("plan",), **both) == LoadRequest(PlacementConstraints(context=4096))
    with pytest.raises(QwenctlError, match="--plan cannot be used with options that a plan sets"):
        load_request(("plan", "ctx_size"), **both)


@pytest.mark.parametrize(("draft", "mtp"), [("auto", True), ("mtp", True), ("ngram", False), ("off", False)])
def test_drafts_load_the_mtp_head_where_they_may_use_it(draft: Any, mtp: bool) -> None:
    constraints = with_drafts(LoadRequest(), draft, 8, 2).constraints
    assert (constraints.mtp, constraints.draft, constraints.draft_max, constraints.draft_min) == (mtp, draft, 8, 2)


def test_drafts_with_a_minimum_above_the_maximum_are_refused() -> None:
    with pytest.raises(QwenctlError, match="--draft-min 5 and --draft-max 3"):
        with_drafts(LoadRequest(), "auto", 3, 5)
    with_drafts(LoadRequest(), "auto", 0, 5)  # no maximum


def test_shared_options_stand_where_the_argument_stood_and_it_is_made_of_them() -> None:
    received: list[tuple[int, str, int]] = []

    def made(width: int = 1, height: int = 2) -> str:
        return f"{width}x{height}"

    def command(first: int, size: str, last: int = 9) -> None:
        received.append((first, size, last))

    together = with_options("size", made, command)
    assert list(inspect.signature(together).parameters) == ["first", "width", "height", "last"]
    together(first=0, width=3, height=4, last=5)
    assert received == [(0, "3x4", 5)]
