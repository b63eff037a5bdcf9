"""Loads a model and makes its one context.

A `Load` request comes in, a `LoadedModel` goes out: libllama's handles, and what is needed around them to turn messages
into tokens and tokens into text. Nothing is generated here.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import psutil

from quantize.ggml.types import GGML_TYPES
from qwenctl.engine.kv.sequence import KVSequence
from qwenctl.engine.kv.snapshots import StateCheckpoints
from qwenctl.engine.llama.cancellation import CancelFlag
from qwenctl.engine.llama.device_params import apply_placement, device_by_buffer_type
from qwenctl.engine.llama.log import LlamaLog, memory_use
from qwenctl.engine.llama.thread_count import LONGEST_TRIED_S, ThreadCount, Threads
from qwenctl.engine.llama.tokens import EogTokens, TokenBytes
from qwenctl.engine.prompt.chat_template import ChatTemplate
from qwenctl.engine.prompt.tokenizer import Tokenizer
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.sampling.grammar import GrammarFactory
from qwenctl.engine.speculative.decoder import SpeculativeDecoder
from qwenctl.engine.speculative.draft_setup import (
    draft_limits,
    make_decoder,
    needs_mtp,
    reserve_draft_outputs,
)
from qwenctl.engine.vision.encoder import VisionEncoder, VisionState
from qwenctl.machine.cpu import usable_cores
from qwenctl.models.context_memory import DEFAULT_TOKENS, max_context, rope_scaling_factor
from qwenctl.models.gguf_check import model_fingerprint
from qwenctl.protocol.load import Load, LoadParams, ModelInfo
from qwenctl.protocol.messages import RequestFailed


def apply_yarn(params: Any, tokens: int, trained: int) -> None:
    """Set the fields of `params` (llama_context_params) for a context of `tokens` and a model trained on `trained`."""
    factor = rope_scaling_factor(tokens, trained)
    if factor > 1:
        params.rope_scaling_type = llama.LLAMA_ROPE_SCALING_TYPE_YARN
        params.rope_freq_scale = 1 / factor
        params.yarn_orig_ctx = trained


# What the makers of Qwen3 let a model say whose thinking budget is used up ("Thinking Budget" in its report).
_CLOSING = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
)
_AFTER_THINKING = "\n\n"
_LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1}  # enum llama_load_mode
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type
_NO_MEMORY = ("insufficient memory", "failed to allocate", "unable to allocate", "out of memory")


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model. `thinking_end` is the id of the token that closes the thinking, if it is a single one.

    `call_begin` is that of the token that begins a call of a function.
    """

    pointer: llama.llama_model_p
    context: llama.llama_context_p
    vocabulary: llama.llama_vocab_p
    vocabulary_size: int
    tokenizer: Tokenizer
    template: ChatTemplate
    pieces: TokenBytes
    eog_tokens: EogTokens
    thinking_end: int | None
    tool_call_start_token: int | None
    think_end_tokens: list[int]  # the end of the thinking, as the template writes it
    forced_think_end_tokens: list[int]  # the same after a sentence, for a thought that is cut short
    post_think_tokens: list[int]
    sequence: KVSequence
    speculation: SpeculativeDecoder
    batch_tokens: int
    state_compat_key: Mapping[str, str]
    log: LlamaLog  # libllama writes to it as long as it is used
    grammars: GrammarFactory
    sight: VisionState
    threads: Threads
    loaded: ModelInfo


def load_model(request: Load, interrupt: CancelFlag, log: LlamaLog, report: Callable[[float], None]) -> LoadedModel:
    """Load the model at `request.path`; `report` gets the fraction that is read.

    Raises RequestFailure with libllama's reason.
    """
    log.clear()
    llama.llama_backend_init()
    pointer = _load_weights(request, interrupt, report)
    if pointer is None:
        raise RequestError(_refusal(interrupt, log, f"cannot load {Path(request.path).name}"))
    settings = request.settings
    trained = llama.llama_model_n_ctx_train(pointer)
    size = resolve_context_size(settings, trained)
    params = context_params(settings, size)
    apply_yarn(params, size, trained)
    limits = draft_limits(settings, pointer, params.n_batch)
    reserve_draft_outputs(params, limits)
    context = llama.llama_init_from_model(pointer, params)
    if context is None:
        raise RequestError(_refusal(interrupt, log, f"cannot make a context of {size:,} tokens"))
    snapshots = StateCheckpoints(context, _snapshot_bytes(settings))
    sight = VisionState(
        partial(
            VisionEncoder,
            model=pointer,
            threads=params.n_threads,
            interrupt=interrupt,
            log=log,
            uses_gpu=settings.gpu_layers != 0,
        )
    )
    sequence = KVSequence(context, size, snapshots, interrupt, limits.longest, sight.embeddings)
    drafts = make_decoder(pointer, context, sequence, limits, params, settings.draft_min)
    vocabulary = llama.llama_model_get_vocab(pointer)
    if vocabulary is None:
        raise RequestError(RequestFailed("model", f"{Path(request.path).name} has no vocabulary"))
    tokenizer, pieces = Tokenizer(vocabulary), TokenBytes(vocabulary)
    template = _template(pointer, request)
    memory = memory_use(log.sizes(), device_by_buffer_type())
    loaded = replace(_describe(pointer, request, size, template), memory=memory)
    return LoadedModel(
        pointer=pointer,
        context=context,
        vocabulary=vocabulary,
        vocabulary_size=llama.llama_vocab_n_tokens(vocabulary),
        tokenizer=tokenizer,
        template=ChatTemplate(template, tokenizer, sight),
        pieces=pieces,
        eog_tokens=EogTokens(vocabulary),
        thinking_end=_single(tokenizer.tokenize_template("</think>")),
        tool_call_start_token=_single(tokenizer.tokenize_template("<tool_call>")),
        think_end_tokens=tokenizer.tokenize_template(f"\n</think>{_AFTER_THINKING}"),
        forced_think_end_tokens=tokenizer.tokenize_template(f"{_CLOSING}</think>{_AFTER_THINKING}"),
        post_think_tokens=tokenizer.tokenize_template(_AFTER_THINKING),
        sequence=sequence,
        speculation=drafts,
        batch_tokens=settings.batch_tokens,
        state_compat_key=_state_key(settings, loaded),
        log=log,
        grammars=GrammarFactory(vocabulary, tokenizer, pieces),
        sight=sight,
        threads=_threads(settings, params.n_threads, context, drafts),
        loaded=loaded,
    )


def _threads(settings: LoadParams, most: int, context: llama.llama_context_p, drafts: SpeculativeDecoder) -> Threads:
    def use(count: int) -> None:
        llama.llama_set_n_threads(context, count, count)
        drafts.use_threads(count)

    is_fixed = not settings.adapts_threads
    reading = ThreadCount(most, use, is_fixed=is_fixed, longest_step_s=LONGEST_TRIED_S)
    return Threads(ThreadCount(most, use, is_fixed=is_fixed), reading)


def _single(tokens: list[int]) -> int | None:
    return tokens[0] if len(tokens) == 1 else None


def _snapshot_bytes(settings: LoadParams) -> int:
    """The memory that snapshots may take: by default 2 GiB, on small machines a twentieth of what there is."""
    if settings.snapshot_bytes is not None:
        return settings.snapshot_bytes
    return int(min(2 << 30, psutil.virtual_memory().total // 20))


def _load_weights(request: Load, interrupt: CancelFlag, report: Callable[[float], None]) -> llama.llama_model_p | None:
    def progress(fraction: float, _user_data: ctypes.c_void_p) -> bool:
        report(fraction)
        return not interrupt

    params, pointed_at = model_params(request.settings)
    params.progress_callback = llama.llama_progress_callback(progress)
    pointer: llama.llama_model_p | None = llama.llama_model_load_from_file(os.fsencode(request.path), params)
    del pointed_at  # only now: libllama has read it while it loaded
    return pointer


def model_params(settings: LoadParams) -> tuple[llama.llama_model_params, list[Any]]:
    """How the weights are loaded, and what must live while they are. Raises RequestFailure."""
    params: llama.llama_model_params = llama.llama_model_default_params()
    params.n_gpu_layers = settings.gpu_layers
    params.load_mode = _LOAD_MODES[settings.load_mode]
    params.load_mtp = needs_mtp(settings)
    params.use_extra_bufts = settings.extra_buffers
    return params, apply_placement(params, settings.placement)


def resolve_context_size(settings: LoadParams, trained: int) -> int:
    """The context in tokens. Raises RequestFailure for more than the model can be given, which gives nonsense."""
    longest = max_context(trained)
    if settings.context_tokens > longest:
        asked = f"a context of {settings.context_tokens:,} tokens"
        raise RequestError(RequestFailed("setting", f"{asked}: the model supports {longest:,}", f"-c {longest}"))
    return settings.context_tokens or min(trained, DEFAULT_TOKENS)


def context_params(settings: LoadParams, size: int) -> llama.llama_context_params:
    """How a context of `size` tokens is made."""
    params: llama.llama_context_params = llama.llama_context_default_params()
    params.n_ctx = size
    params.n_batch = min(settings.batch_tokens, size)
    params.n_ubatch = min(settings.micro_batch_tokens, params.n_batch)
    # Only the last token's logits are ever read. Without this, buffers for those of a whole micro-batch are reserved:
    # half a gigabyte with Qwen3.5's vocabulary.
    params.n_outputs_max = 1
    params.n_threads = params.n_threads_batch = settings.threads or usable_cores()
    params.type_k = GGML_TYPES[settings.cache_type_k.upper()].id
    params.type_v = GGML_TYPES[settings.cache_type_v.upper()].id
    params.flash_attn_type = _FLASH_ATTENTION[settings.flash_attention]
    params.no_perf = True
    return params


def _refusal(interrupt: CancelFlag, log: LlamaLog, what: str) -> RequestFailed:
    if interrupt:
        return RequestFailed("cancelled", "stopped while loading the model")
    reason = log.reason() or "llama.cpp gave no reason"
    memory = any(words in reason.lower() for words in _NO_MEMORY)
    hint = "a smaller context (-c), a smaller model, or -ctk q8_0 -ctv q8_0" if memory else ""
    return RequestFailed("memory" if memory else "model", f"{what}: {reason}", hint)


def _template(pointer: llama.llama_model_p, request: Load) -> str:
    template: bytes | None = llama.llama_model_chat_template(pointer, None)
    if not template:
        name = Path(request.path).name
        raise RequestError(RequestFailed("template", f"{name} has no chat template", "it is not a chat model"))
    return template.decode("utf-8", "replace")


def _describe(pointer: llama.llama_model_p, request: Load, size: int, template: str) -> ModelInfo:
    text = ctypes.create_string_buffer(256)
    llama.llama_model_desc(pointer, text, len(text))
    return ModelInfo(
        name=_metadata(pointer, b"general.name") or Path(request.path).stem,
        architecture=_metadata(pointer, b"general.architecture"),
        description=text.value.decode("utf-8", "replace").replace(" ?B", ""),  # a size that llama.cpp has no name for
        size_bytes=llama.llama_model_size(pointer),
        parameters=llama.llama_model_n_params(pointer),
        context_tokens=size,
        training_context_tokens=llama.llama_model_n_ctx_train(pointer),
        generation_config=_generation_config(pointer),
        fingerprint=model_fingerprint(Path(request.path)),
        template_sha256=hashlib.sha256(template.encode()).hexdigest(),
    )


def _state_key(settings: LoadParams, loaded: ModelInfo) -> dict[str, str]:
    """What must be the same where a kept state is to be used, in words for the person who is told that it is not."""
    return {
        "model": loaded.fingerprint,
        "type of KV cache": f"{settings.cache_type_k} {settings.cache_type_v}",
        "scaling of positions": f"{rope_scaling_factor(loaded.context_tokens, loaded.training_context_tokens):g}",
        "version of llama-cpp-python": version("llama-cpp-python"),
    }


def _generation_config(pointer: llama.llama_model_p) -> dict[str, float]:
    """The sampling values of generation_config.json, which a GGUF file carries, by their names in `Sampling`."""
    names = {"temperature": b"temp", "top_k": b"top_k", "top_p": b"top_p"}
    texts = {name: _metadata(pointer, b"general.sampling." + key) for name, key in names.items()}
    return {name: int(text) if name == "top_k" else float(text) for name, text in texts.items() if text}


def _metadata(pointer: llama.llama_model_p, key: bytes) -> str:
    """A value of the file's metadata as text; nothing if it has no such key."""
    size = 256
    while True:
        text = ctypes.create_string_buffer(size)
        length = llama.llama_model_meta_val_str(pointer, key, text, size)
        if length < size:
            return text.value.decode("utf-8", "replace") if length >= 0 else ""
        size = length + 1
