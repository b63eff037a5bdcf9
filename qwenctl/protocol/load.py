"""Loading a model: the request with its parameters, the progress, and what the model turned out to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from qwenctl.protocol.base import Event, Reply, Request
from qwenctl.protocol.placement import MemoryUse, Placement


@dataclass(frozen=True)
class LoadParams:
    """How a model is loaded. Counts of tokens, threads and layers; cache types by ggml name ("f16", "q8_0", ...)."""

    context_tokens: int = 0  # 0: the smaller of the model's own and `context_memory.USUAL_TOKENS`
    threads: int = 0  # 0: physical cores
    batch_tokens: int = 2048
    micro_batch_tokens: int = 512
    gpu_layers: int = -1  # -1: all that the backend's devices can take
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    load_mode: Literal["auto", "mmap", "none"] = "auto"
    snapshot_bytes: int | None = None  # memory for snapshots of the state; None: 2 GiB or 5 % of RAM
    placement: Placement = field(default_factory=Placement)
    extra_buffers: bool = True  # ggml's extra buffer types: weights laid out anew for faster kernels, AMX among them
    draft: Literal["auto", "mtp", "ngram", "off"] = "off"  # the model's draft head, the text so far, both, or none
    draft_max: int = 0  # tokens of one draft; 0: what is good for its source
    draft_min: int = 0  # so many are always drafted, where there are; 0: as many as pay
    adapts_threads: bool = False  # fewer threads decode while other programs keep the processors busy


@dataclass(frozen=True)
class LoadProgress(Event):
    """`fraction` of the weights read, 0 to 1."""

    fraction: float


@dataclass(frozen=True)
class ModelInfo(Reply):
    """What was loaded. `description` is llama.cpp's own line, for example "qwen35moe 397B.A17B Q4_K - Medium"."""

    name: str
    architecture: str
    description: str
    size_bytes: int
    parameters: int
    context_tokens: int
    training_context_tokens: int
    generation_config: dict[str, float | int] = field(default_factory=dict)  # sampling values that the file carries
    fingerprint: str = ""  # of the file's content (`model_file.fingerprint`)
    template_sha256: str = ""
    memory: tuple[MemoryUse, ...] = ()


@dataclass(frozen=True)
class Load(Request[LoadProgress | ModelInfo]):
    """Load the model at `path`; the progress of it, and at last what was loaded, answer."""

    path: str
    settings: LoadParams = field(default_factory=LoadParams)
