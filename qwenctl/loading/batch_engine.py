"""The engine on this machine as the backend of a batch: which model, how to load it, how many records at once.

`qwenctl.batch.run` takes an `EngineSpec` as its backend; the model is loaded when the first record comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, cast

from qwenctl.batch.backends.engine_backend import BatchEngine, EngineBackend, EngineBackendConfig
from qwenctl.batch.specs import InputSpec
from qwenctl.files.atomic import temp_dir_path
from qwenctl.files.media_files import MediaSource
from qwenctl.loading.checked_backend import start_engine
from qwenctl.loading.load_engine import wait_for_load
from qwenctl.loading.model_files import reserve_mmproj, resolve_model, vision_settings
from qwenctl.loading.open_for_batch import plan_batch
from qwenctl.placement.constraints import LoadRequest
from qwenctl.placement.engine_args import load_params
from qwenctl.protocol.batch import RECORD_TOKENS, StartBatch
from qwenctl.protocol.load import LoadParams, ModelInfo
from qwenctl.protocol.media import VisionSettings
from qwenctl.protocol.messages import Message

if TYPE_CHECKING:
    from qwenctl.loading.load_engine import Follow

_MAX_PARALLEL = 64


@dataclass(frozen=True)
class EngineSpec:
    """Which model to use, a path or a local model's name, and how; `load` says how to load it, `follow` shows progress.

    `parallel` records are answered at once, each with `load.constraints.context` tokens (0: 8,192); 0 measures which
    number is fastest. With `share_prefixes`, a prefix that prompts have in common is evaluated once; the state of the
    input's prefix is saved in the file `prefix_state`, if given. Images and videos need the vision encoder `mmproj`
    (default: the file next to the model), with the settings `vision`; URLs are downloaded if `allow_urls`, from
    private addresses only if `allow_private_urls`.
    """

    model: Path | None
    load: LoadRequest = field(default_factory=LoadRequest)
    parallel: int = 0
    share_prefixes: bool = True
    prefix_state: Path | None = None
    mmproj: Path | None = None
    vision: VisionSettings = field(default_factory=VisionSettings)
    allow_urls: bool = False
    allow_private_urls: bool = False
    follow: Follow = field(default=wait_for_load, compare=False)

    def identity(self) -> dict[str, Any]:
        """The model's fingerprint, the context per record and the types of the KV cache. Raises QwenctlError."""
        from qwenctl.models.gguf_check import model_fingerprint

        constraints = self.load.constraints
        source = self.load.template.source
        return {
            "model": model_fingerprint(resolve_model(self.model, lambda _: None)),
            "room": constraints.context,
            "cache": f"{constraints.cache_k} {constraints.cache_v}",
            **({"chat_template": hashlib.sha256(source.encode()).hexdigest()} if source else {}),
        }

    def open(self, source: InputSpec, warn: Callable[[str], None]) -> EngineBackend:
        """The backend, with a plan if there is anything to plan; nothing is loaded yet. Raises QwenctlError."""
        from qwenctl.tune.store import load_tuning, with_tuned_threads

        path = resolve_model(self.model)
        vision = vision_settings(path, self.mmproj, self.vision)
        settings = with_tuned_threads(_load_params(self.load), load_tuning(path))
        most = self.parallel or max_parallel(path, settings.context_tokens, source.max_records)
        planned = plan_batch(path, reserve_mmproj(self.load, vision.mmproj), settings, most, fixed=self.parallel > 0)

        def start() -> tuple[BatchEngine, ModelInfo]:
            opened = planned.open(partial(start_engine, template=self.load.template), self.follow, warn)
            try:
                opened.engine.configure_vision(vision)
                return cast("BatchEngine", opened.engine), opened.loaded
            except BaseException:
                opened.engine.close()
                raise

        is_saved = source.prefix is not None and self.prefix_state is not None
        start_batch = StartBatch(
            settings=planned.settings,
            parallel=self.parallel,
            max_parallel=planned.max_parallel,
            share_prefixes=self.share_prefixes,
            prefix_messages=(Message("system", source.prefix or ""),) if is_saved else (),
            state_path=str(self.prefix_state) if is_saved else "",
        )
        folder = temp_dir_path()
        return EngineBackend(
            EngineBackendConfig(
                start=start,
                start_batch=start_batch,
                seed=source.seed,
                notify=warn,
                media_source=MediaSource(folder, self.allow_urls, copies=False, allows_private=self.allow_private_urls),
                close=lambda: rmtree(folder, ignore_errors=True),
            )
        )


def _load_params(load: LoadRequest) -> LoadParams:
    """Load parameters without a plan. The logical batch size of a batch is its micro-batch size."""
    params = load_params(load.constraints)
    return replace(params, batch_tokens=params.micro_batch_tokens)


def max_parallel(path: Path, context_tokens: int, records: int | None) -> int:
    """The most records of `context_tokens` tokens each (0: 8,192) that fit in memory with the model at `path`.

    Their contexts may take half of the free RAM; `records` is the number of records, if known.
    """
    import psutil

    from qwenctl.models.context_memory import context_memory_from_file

    most = min(_MAX_PARALLEL, records or _MAX_PARALLEL)
    memory = context_memory_from_file(path)
    if memory is None:
        return most
    room = context_tokens or RECORD_TOKENS
    free = psutil.virtual_memory().available // 2
    return max(1, min(most, free // (memory.token_bytes * room + memory.state_bytes)))
