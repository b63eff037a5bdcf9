"""Long contexts: positions are scaled only where needed, memory matches the plan, and logits are right."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan
from qwenctl.machine.profile import Machine
from qwenctl.models.context_memory import max_context, rope_scaling_factor
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.planner import make_plan as plan_placement
from qwenctl.placement.tensor_inventory import from_gguf
from qwenctl.protocol.load import LoadParams
from tests.support import checkpoints, qwen35_layout
from tests.support.cli_runner import outcome, run
from tests.support.libllama import squared_error
from tests.support.loaded_model import loaded
from tests.support.own_process import late

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

LogitsView = late("qwenctl.engine.llama.logits_view:LogitsView")

TRAINED = 262_144
# The depth of the slow test. QWENCTL_TEST_DEPTH=200000 takes an hour on one core.
DEPTH = int(os.environ.get("QWENCTL_TEST_DEPTH") or 8192)
NEEDLE = "The word is 7394. "


@pytest.mark.parametrize(
    ("tokens", "factor"), [(1, 1), (32_768, 1), (TRAINED, 1), (TRAINED + 1, 1.5), (524_288, 2), (1_010_000, 4)]
)
def test_rope_scaling_factor_depends_on_the_context_length(tokens: int, factor: float) -> None:
    assert rope_scaling_factor(tokens, TRAINED) == factor


@given(tokens=st.integers(1, 1_010_000))
def test_rope_scaling_factor_is_the_smallest_that_fits(tokens: int) -> None:
    factor = rope_scaling_factor(tokens, TRAINED)
    assert tokens <= factor * TRAINED
    assert factor == 1 or (factor - 0.5) * TRAINED < tokens
    assert factor <= 4


def test_max_context_is_the_published_or_the_trained_length() -> None:
    assert [max_context(trained) for trained in (TRAINED, 40_960)] == [1_010_000, 40_960]


def scaling_of(toy_gguf: Path, tokens: int, state: Path) -> tuple[float, int]:
    """The RoPE scaling factor in libllama's log, and the context length in the answer's JSON."""
    done = run(
        "chat", "-m", str(toy_gguf), "-c", str(tokens), "-ctk", "q4_0", "-ctv", "q4_0", "-ub", "64", "-t", "1",
        "--json", "--draft", "off", "-n", "1", "hi", XDG_STATE_HOME=str(state),
    )  # fmt: skip
    [log] = (state / "qwenctl" / "log").glob("engine-*.log")
    [scale] = set(re.findall(r"freq_scale += ([\d.]+)", log.read_text()))
    return round(1 / float(scale), 3), json.loads(done.stdout)["model"]["context_tokens"]


@pytest.mark.parametrize(("tokens", "factor"), [(TRAINED, 1), (300_000, 1.5), (1_010_000, 4)])
def test_engine_applies_the_rope_scaling_factor(toy_gguf: Path, tmp_path: Path, tokens: int, factor: float) -> None:
    assert scaling_of(toy_gguf, tokens, tmp_path) == (factor, tokens)


def test_context_above_the_model_maximum_is_refused(toy_gguf: Path) -> None:
    error, hint, code = outcome("chat", "-m", str(toy_gguf), "-c", "1010001", "hi")
    assert (error, hint) == ("-c 1010001: the model supports 1,010,000 tokens", "-c 1010000")
    assert code == 2


@pytest.mark.parametrize("cache", ["f16", "q8_0", "q4_0"])
def test_full_context_memory_matches_the_plan(toy_gguf: Path, cache: str) -> None:
    given = ("-c", str(TRAINED), "-ctk", cache, "-ctv", cache, "-ub", "128")
    planned = json.loads(run("plan", str(toy_gguf), *given, "--json").stdout)
    [ram] = [memory for memory in planned["memories"] if memory["name"] == "CPU"]
    parts = {part["kind"]: part["n_bytes"] for part in ram["parts"]}
    done = run("chat", "-m", str(toy_gguf), *given, "-t", "1", "--json", "-n", "1", "hi")
    [taken] = json.loads(done.stdout)["model"]["memory"]
    assert taken["context"] == pytest.approx(
        parts["KV cache"] + parts["state"], abs=20_000
    )  # the log rounds to 0.01 MiB
    assert taken["compute"] == pytest.approx(parts["buffers"], rel=0.15)


def test_draft_memory_matches_the_plan(toy_gguf: Path) -> None:
    constraints = PlacementConstraints(context=8192, draft="auto", mtp=True)
    planned = plan_placement(from_gguf(toy_gguf), Machine(64 << 30, 64 << 30, 40e9, 4, ()), constraints).memories[0]
    done = run("chat", "-m", str(toy_gguf), "-c", "8192", "-t", "1", "--json", "-n", "1", "hi")
    [taken] = json.loads(done.stdout)["model"]["memory"]
    assert taken["context"] == pytest.approx(planned.of("KV cache", "state"), abs=20_000)
    weights = planned.n_bytes - planned.of("KV cache", "state", "buffers", "snapshots")
    assert taken["weights"] == pytest.approx(weights, abs=100_000)


@pytest.fixture(scope="module")
def wide_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a large cache: 256 KiB per token in f32, too much for a million tokens."""
    folder = tmp_path_factory.mktemp("wide")
    model = qwen35_layout.Model(hidden=64, kv_heads=64, attention_heads=64, head_dim=256, experts=4, vision=None)
    checkpoints.make(folder / "checkpoint", model)
    path = folder / "wide.gguf"
    convert(make_plan(folder / "checkpoint", path, QuantizeOptions("Q8_0")), threads=1)
    return path


def test_context_beyond_memory_is_refused_with_the_longest_that_fits(wide_gguf: Path) -> None:
    given = ("-ctk", "f32", "-ctv", "f32", "-fa", "on")
    error, hint, code = outcome("chat", "-m", str(wide_gguf), "-c", "1010000", *given, "hi")
    assert re.match(r"needs [\d.]+ [GT]iB of RAM \(.*context and buffers", error)
    assert code == 71
    found = re.match(r"-c (\d+) fits", hint)
    assert found, hint
    most = int(found[1])
    assert 4096 <= most < 1_010_000
    assert (
        run("plan", str(wide_gguf), "-c", str(most * 9 // 10), *given).returncode == 0
    )  # other programs may take memory in the meantime
    assert run("plan", str(wide_gguf), "-c", str(most * 3 // 2), *given).returncode == 71


def logits_at(toy_gguf: Path, depth: int, batch: int, cache: str = "f16") -> npt.NDArray[np.float32]:
    """The logits of the last of `depth` tokens, evaluated in batches of `batch` tokens."""
    settings = LoadParams(
        context_tokens=depth + 256, threads=1, batch_tokens=batch, micro_batch_tokens=batch, cache_type_k=cache,
        cache_type_v=cache,
    )  # fmt: skip
    model = loaded(toy_gguf, settings)
    for _ in model.sequence.prefill(document(model, depth), (), batch):
        pass
    return LogitsView(model.context, model.vocabulary_size).row(-1).copy()


def document(model: LoadedModel, depth: int) -> list[int]:
    """`depth` tokens of sentences that the toy model knows, with a needle in the middle and a question at the end."""
    hay = model.tokenizer.tokenize_plain(b"The capital of France is Paris. Ada is 36 years old. A flamingo is pink. ")
    needle, question = (model.tokenizer.tokenize_plain(text.encode()) for text in (NEEDLE, "\nThe word is"))
    half = (depth - len(needle) - len(question)) // 2
    first = (hay * (half // len(hay) + 1))[:half]
    return [*first, *needle, *(hay * (depth // len(hay) + 1))[: depth - half - len(needle) - len(question)], *question]


@pytest.mark.own_process
@pytest.mark.parametrize("depth", [1024, pytest.param(DEPTH, marks=pytest.mark.slow)])
def test_logits_at_depth_are_stable_across_batch_sizes_and_cache_types(toy_gguf: Path, depth: int) -> None:
    reference = logits_at(toy_gguf, depth, 512)
    assert squared_error(logits_at(toy_gguf, depth, 192), reference) < 1e-6
    assert squared_error(logits_at(toy_gguf, depth, 512, "q8_0"), reference) < 1e-3
