"""Tables of models: what a repository offers, what a pull would fetch, what is here, and the same as JSON."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.hub.pull import PullPlan, plan_pull
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.select.available_quants import AvailableQuants
from qwenctl.hub.select.fit import Fit, PullCandidate
from qwenctl.models.context_memory import ContextMemory
from qwenctl.views.models import (
    model_fields,
    offer_fields,
    plan_fields,
    print_models,
    print_offers,
    print_plan,
)
from tests.support.cached_models import COMMIT, cached_model

GB = 10**9
USUAL, FORK = PullCandidate("Q4_K_M", 20 * GB, 20 * GB), PullCandidate("IQ4_KS", 18 * GB, 18 * GB)
FITS = (Fit(FORK, "GPU", 19 * GB), Fit(USUAL, "GPU + RAM", 21 * GB))
OFFERS = AvailableQuants((FORK, USUAL), ContextMemory(1000, 10**6, 0), 35 * GB, needs_conversion=False)


def test_offers_show_size_bits_and_where_each_fits() -> None:
    stream = io.StringIO()
    print_offers(OFFERS, FITS, stream)
    names, fork, usual, context = stream.getvalue().splitlines()
    assert names.split() == ["quantization", "size", "bits/weight", "on", "this", "machine"]
    assert fork.split() == ["IQ4_KS", "18.0", "GB", "4.11", "only", "ik_llama.cpp", "can", "load", "it"]
    assert usual.split() == ["Q4_K_M", "20.0", "GB", "4.57", "GPU", "+", "RAM"]
    assert context.endswith("tokens of context included")


def test_offers_of_unknown_weights_have_no_bits_and_conversions_are_announced() -> None:
    stream = io.StringIO()
    print_offers(replace(OFFERS, weights=0, needs_conversion=True), FITS[1:], stream)
    _, usual, context = stream.getvalue().splitlines()
    assert usual.split()[3] == "-"
    assert context.startswith("quantized here while the checkpoint downloads; ")


def test_offers_as_json_have_bytes_and_flags() -> None:
    fork, usual = offer_fields(OFFERS, FITS)
    assert (fork["quant"], fork["foreign"], usual["foreign"]) == ("IQ4_KS", True, False)
    assert (usual["bytes"], usual["needed_bytes"], usual["bits_per_weight"]) == (20 * GB, 21 * GB, 4.571)


@pytest.fixture
def plan(tmp_path: Path) -> PullPlan:
    """A pull of which one file is here already."""
    here = cached_model(tmp_path, {"here.gguf": b"12345"})
    assert here.cache is not None
    present = RemoteFile("here.gguf", 5, "", here.files[0].resolve().name)
    missing = RemoteFile("to\x1b[31mcome.gguf", 2_000_000, "", "f" * 64)
    listing = Listing("owner/name", "main", COMMIT, (present, missing), "apache-2.0")
    return plan_pull(listing, "Q4_K_M", (present, missing), here.cache)


def test_plan_of_a_pull_shows_what_is_here_and_what_is_to_come(plan: PullPlan) -> None:
    stream = io.StringIO()
    print_plan(plan, stream)
    _, present, missing, origin, amounts = stream.getvalue().splitlines()
    assert present.split()[0:4] == ["here.gguf", "5", "B", "here"]
    assert "to download" in missing
    assert missing.endswith("ffffffffffff")
    assert origin == f"from owner/name@{COMMIT[:12]}, license apache-2.0"
    assert amounts.startswith("to download: 2.00 MB of 2.00 MB; ")


def test_names_of_the_hub_cannot_color_the_terminal(plan: PullPlan) -> None:
    stream = io.StringIO()
    print_plan(plan, stream)
    assert "\x1b" not in stream.getvalue()


def test_plan_of_a_pull_as_json_has_the_same_states(plan: PullPlan) -> None:
    fields = plan_fields(plan)
    assert [file["state"] for file in fields["files"]] == ["here", "to download"]
    assert (fields["bytes"], fields["needed_bytes"], fields["license"]) == (2_000_005, 2_000_000, "apache-2.0")
    assert [len(file["sha256"]) for file in fields["files"]] == [64, 64]


def test_models_here_show_name_size_and_place(tmp_path: Path) -> None:
    cached = replace(cached_model(tmp_path, {"a.gguf": b"12345"}), missing_parts=2)
    made = replace(cached, cache=None, commit="", missing_parts=0)
    stream = io.StringIO()
    print_models([cached, made], stream)
    _, first, second, total = stream.getvalue().splitlines()
    assert first.startswith("owner/name:Q4_K_M (2 parts missing)")
    assert first.endswith(str(tmp_path))
    assert second.split() == ["owner/name:Q4_K_M", "5", "B", "-", "quantized", "here:", str(made.path)]
    assert total == "2 models, 10 B"
    assert [model_fields(model)["made_here"] for model in (cached, made)] == [False, True]
    assert (model_fields(cached)["missing_parts"], model_fields(made)["bytes"]) == (2, 5)


def test_one_model_is_counted_in_the_singular(tmp_path: Path) -> None:
    stream = io.StringIO()
    print_models([cached_model(tmp_path, {"a.gguf": b"12345"})], stream)
    assert stream.getvalue().splitlines()[-1] == "1 model, 5 B"
