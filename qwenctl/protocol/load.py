"""Loading a model: the request with its parameters, its progress, and facts about the loaded model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from qwenctl.protocol.base import Event, Reply, Request
from qwenctl.protocol.placement import MemoryUse, Placement


@dataclass(frozen=True)
class LoadParams:
    """How to load a model: numbers of tokens, threads and layers, and KV cache types by ggml name ("f16", "q8_0")."""

    context_tokens: int = 0  # 0: the model's maximum, up to `context_memory.DEFAULT_TOKENS`
    threads: int = 0  # 0: physical cores
    batch_tokens: int = 2048
    micro_batch_tokens: int = 512
    gpu_layers: int = -1  # -1: as many as fit on the devices
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    load_mode: Literal["auto", "mmap", "none"] = "auto"
    snapshot_bytes: int | None = None  # RAM for context checkpoints; None: 2 GiB or 5 % of RAM
    placement: Placement = field(default_factory=Placement)
    extra_buffers: bool = True  # ggml's extra buffer types: weights repacked for faster CPU kernels, such as AMX
    draft: Literal["auto", "mtp", "ngram", "off"] = "off"  # MTP head, n-gram lookup, both, or none
    draft_max: int = 0  # maximum tokens per draft; 0: a default per draft source
    draft_min: int = 0  # minimum tokens per draft, if the source has them; 0: adaptive
    adapts_threads: bool = False  # use fewer threads for decoding while other programs keep the cores busy


@dataclass(frozen=True)
class LoadProgress(Event):
    """The `fraction` of the weights that has been read, from 0 to 1."""

    fraction: float


@dataclass(frozen=True)
class ModelInfo(Reply):
    """Facts about the loaded model. `description` is llama.cpp's, for example "qwen35moe 397B.A17B Q4_K - Medium"."""

    name: str
    architecture: str
    description: str
    size_bytes: int
    parameters: int
    context_tokens: int
    training_context_tokens: int
    generation_config: dict[str, float | int] = field(default_factory=dict)  # recommended sampling values from the file
    fingerprint: str = ""  # of the file's content, see `gguf_check.model_fingerprint`
    template_sha256: str = ""
    memory: tuple[MemoryUse, ...] = ()


@dataclass(frozen=True)
class TemplateOverride:
    """A chat template in place of the model's own ("": none), and more variables for it."""

    source: str = ""
    variables: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Load(Request[LoadProgress | ModelInfo]):
    """Load the model at `path`; answered by LoadProgress any number of times, then ModelInfo."""

    path: str
    settings: LoadParams = field(default_factory=LoadParams)
    template: TemplateOverride = field(default_factory=TemplateOverride)
