"""What is worth a try around a plan, one dimension after the other.

A `TuningBaseline` (how the model would be loaded, and what the machine has) comes in; changes of wishes go out, each
with what a person calls it. Nothing is measured here.
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
    """`settings` of the untuned plan for `wishes`; `cores` that may be used; tokens of a measured prompt.

    `cpu_experts` counts the layers with experts in RAM by that plan, of `expert_layers`; None without GPUs.
    """

    constraints: PlacementConstraints
    settings: LoadParams
    cores: int
    prompt: int
    cpu_experts: int | None = None
    expert_layers: int = 0
    try_kv_types: bool = False


@dataclass(frozen=True)
class Candidate:
    """Fields of `PlacementConstraints` with new values, and what they are called in a table."""

    name: str
    fields: tuple[tuple[str, Any], ...]


def candidate_groups(ground: TuningBaseline) -> Iterator[tuple[Candidate, ...]]:
    """The changes of one kind together: of each kind at most one will hold. What a person has fixed is left alone."""
    yield tuple(_threads(ground))
    yield tuple(_experts(ground))
    yield tuple(_micro_batches(ground))
    yield tuple(_caches(ground))


def _threads(ground: TuningBaseline) -> Iterator[Candidate]:
    """Never more than there are physical cores: threads wait for each other at every step of a graph."""
    if ground.constraints.threads:
        return
    now = ground.settings.threads
    for threads in sorted({ground.cores, now + 1, now - 1, now // 2} - {now}, reverse=True):
        if 0 < threads <= ground.cores:
            yield Candidate(f"{threads} thread{'s' * (threads > 1)}", (("threads", threads),))


def _experts(ground: TuningBaseline) -> Iterator[Candidate]:
    now = ground.cpu_experts
    if now is None or ground.constraints.cpu_experts is not None or ground.constraints.overrides:
        return
    for layers in (now + step for step in _EXPERT_STEPS):
        if 0 <= layers <= ground.expert_layers:
            yield Candidate(f"experts of {layers} layers in RAM", (("cpu_experts", layers),))


def _micro_batches(ground: TuningBaseline) -> Iterator[Candidate]:
    """Those that make a difference for a prompt of the measured length."""
    now = ground.settings.micro_batch_tokens
    if ground.constraints.micro_batch:
        return
    for tokens in _MICRO_BATCHES:
        if tokens != now and (tokens < ground.prompt or now < ground.prompt) and tokens < 2 * ground.prompt:
            yield Candidate(f"micro-batch {tokens:,}", (("micro_batch", tokens),))


def _caches(ground: TuningBaseline) -> Iterator[Candidate]:
    if ground.try_kv_types and ground.constraints.cache_k == ground.constraints.cache_v == _EXACT_CACHE:
        yield Candidate(f"KV cache {_SMALL_CACHE}", (("cache_k", _SMALL_CACHE), ("cache_v", _SMALL_CACHE)))
