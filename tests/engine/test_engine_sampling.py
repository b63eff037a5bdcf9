"""Sampling: penalties match llama.cpp's, and a seed makes answers repeatable."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling
from tests.support.own_process import late

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

pytestmark = pytest.mark.own_process
llama = late("llama_cpp.llama_cpp")
generate = late("qwenctl.engine.generation.generate:generate")
CancelFlag = late("qwenctl.engine.llama.callbacks:CancelFlag")
Penalties = late("qwenctl.engine.sampling.sampler:Penalties")

VOCABULARY = 50
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), max_size=60)
PENALTIES = st.builds(
    Sampling,
    presence_penalty=st.floats(-2, 2, width=16),
    frequency_penalty=st.floats(-2, 2, width=16),
    repeat_penalty=st.floats(0.5, 2, width=16),
    repeat_last_n=st.integers(0, 70),
)


def by_llama_cpp(sampling: Sampling, tokens: list[int], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The logits [VOCABULARY] after llama.cpp's own sampler has accepted `tokens`."""
    sampler = llama._lib.llama_sampler_init_penalties
    sampler.restype = ctypes.c_void_p
    sampler.argtypes = [ctypes.c_int32, ctypes.c_int32, ctypes.c_float, ctypes.c_float, ctypes.c_float]
    chain = ctypes.cast(
        sampler(
            VOCABULARY,
            sampling.repeat_last_n,
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        ),
        llama.llama_sampler_p_ctypes,
    )
    for token in tokens:
        llama.llama_sampler_accept(chain, token)
    data = (llama.llama_token_data * VOCABULARY)(*((at, float(logit), 0.0) for at, logit in enumerate(logits)))
    candidates = llama.llama_token_data_array(data, VOCABULARY, -1, False)
    llama.llama_sampler_apply(chain, ctypes.byref(candidates))
    llama.llama_sampler_free(chain)
    return np.array([one.logit for one in data], np.float32)


@given(PENALTIES, TOKENS, st.integers(0, 2**32 - 1))
def test_penalties_match_llama_cpp(sampling: Sampling, tokens: list[int], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 5, VOCABULARY).astype(np.float32)
    expected = by_llama_cpp(sampling, tokens, logits)
    penalties = Penalties(sampling, VOCABULARY)
    for token in tokens:
        penalties.observe(token)
    penalties.apply(logits)
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)


@given(TOKENS)
def test_unlimited_penalty_window_counts_the_whole_answer(tokens: list[int]) -> None:
    endless, long = (Penalties(Sampling(presence_penalty=1.5, repeat_last_n=n), VOCABULARY) for n in (-1, 1000))
    logits = [np.zeros(VOCABULARY, np.float32) for _ in range(2)]
    for penalties, row in zip((endless, long), logits, strict=True):
        for token in tokens:
            penalties.observe(token)
        penalties.apply(row)
    np.testing.assert_array_equal(*logits)
    assert set(np.flatnonzero(logits[0])) == set(tokens)


def answer(model: LoadedModel, sampling: Sampling) -> str:
    events = list(generate(model, Generate((Message("user", "Tell me."),), False, sampling, 60), CancelFlag()))
    assert isinstance(events[-1], GenerationFinished)
    return "".join(getattr(event, "text", "") for event in events)


@pytest.mark.parametrize("seed", [2**32 - 1, -1, -(2**63)])
def test_no_seed_that_was_given_is_drawn(toy_model: LoadedModel, seed: int) -> None:
    one, other = (answer(toy_model, Sampling(temperature=3.0, top_k=0, top_p=1.0, seed=seed)) for _ in range(2))
    assert one == other


def test_answer_is_repeated_by_the_same_seed_only(toy_model: LoadedModel) -> None:
    wild = [answer(toy_model, Sampling(temperature=3.0, top_k=0, top_p=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert wild[0] == wild[1] != wild[2]
    drawn = [answer(toy_model, Sampling(temperature=3.0, top_k=0, top_p=1.0)) for _ in range(2)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("narrow", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}])
def test_sampling_narrowed_to_one_token_equals_greedy(toy_model: LoadedModel, narrow: dict[str, float]) -> None:
    alone = {"top_k": 0, "top_p": 1.0, "presence_penalty": 0.0, "temperature": 1.0, **narrow}
    expected = Sampling(temperature=0.0, presence_penalty=0.0)
    assert answer(toy_model, Sampling(**alone)) == answer(toy_model, expected)  # type: ignore[arg-type]
