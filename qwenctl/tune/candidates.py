"""Candidate settings around a plan, one group after the other.

A `TuningBaseline` (how the model would be loaded, and what the machine has) comes in; changes of constraints go out,
each with a name for the user. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.protocol.load import LoadParams

_MICRO_BATCHES = (256, 512, 1024, 2048, 4096)
_EXPERT_STEPS = (-1, 1, 2)
_EXACT_CACHE, _SMALL_CACHE = "f16", "q8_0"


@dataclass(frozen=True)
class TuningBaseline:
    """`settings` of the untuned plan for `constraints`, the number of usable `cores`, tokens of a measured prompt.

    `cpu_experts` is the number of layers (of `expert_layers`) whose experts the plan puts in RAM; None without GPUs.
    `try_kv_types` allows a KV cache with a smaller type.
    """

    constraints: PlacementConstraints
    settings: LoadParams
    cores: int
    prompt_tokens: int
    cpu_experts: int | None = None
    expert_layers: int = 0
    try_kv_types: bool = False


@dataclass(frozen=True)
class Candidate:
    """New values for fields of `PlacementConstraints`, and the `name` of the change in tables."""

    name: str
    fields: tuple[tuple[str, Any], ...]


def candidate_groups(baseline: TuningBaseline) -> Iterator[tuple[Candidate, ...]]:
    """Yield the candidates in groups; at most one of each group can win. What the user has fixed is not varied."""
    yield tuple(_thread_candidates(baseline))
    yield tuple(_expert_candidates(baseline))
    yield tuple(_micro_batch_candidates(baseline))
    yield tuple(_cache_candidates(baseline))


def _thread_candidates(baseline: TuningBaseline) -> Iterator[Candidate]:
    """Never more threads than physical cores: all threads synchronize after every step of a graph."""
    if baseline.constraints.threads:
        return
    now = baseline.settings.threads
    for threads in sorted({baseline.cores, now + 1, now - 1, now // 2} - {now}, reverse=True):
        if 0 < threads <= baseline.cores:
            yield Candidate(f"{threads} thread{'s' * (threads > 1)}", (("threads", threads),))


def _expert_candidates(baseline: TuningBaseline) -> Iterator[Candidate]:
    now = baseline.cpu_experts
    if now is None or baseline.constraints.cpu_experts is not None or baseline.constraints.overrides:
        return
    for layers in (now + step for step in _EXPERT_STEPS):
        if 0 <= layers <= baseline.expert_layers:
            yield Candidate(f"experts of {layers} layers in RAM", (("cpu_experts", layers),))


def _micro_batch_candidates(baseline: TuningBaseline) -> Iterator[Candidate]:
    """Only sizes that make a difference for a prompt of the measured length."""
    now = baseline.settings.micro_batch_tokens
    if baseline.constraints.micro_batch:
        return
    for tokens in _MICRO_BATCHES:
        if (
            tokens != now
            and (tokens < baseline.prompt_tokens or now < baseline.prompt_tokens)
            and tokens < 2 * baseline.prompt_tokens
        ):
            yield Candidate(f"micro-batch {tokens:,}", (("micro_batch", tokens),))


def _cache_candidates(baseline: TuningBaseline) -> Iterator[Candidate]:
    if baseline.try_kv_types and baseline.constraints.cache_k == baseline.constraints.cache_v == _EXACT_CACHE:
        yield Candidate(f"KV cache {_SMALL_CACHE}", (("cache_k", _SMALL_CACHE), ("cache_v", _SMALL_CACHE)))
