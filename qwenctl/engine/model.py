"""Loads a model and creates its one context.

A `Load` request comes in, a `LoadedModel` goes out: libllama's handles, and everything around them that turns messages
into tokens and tokens into text. Nothing is generated here.
"""

from __future__ import annotations

import ctypes
import hashlib
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
from qwenctl.engine.llama.callbacks import CancelFlag, LlamaLog, memory_use
from qwenctl.engine.llama.device_params import apply_placement, device_by_buffer_type
from qwenctl.engine.llama.logits_view import LogitsView
from qwenctl.engine.llama.thread_count import LONGEST_TRIED_S, ThreadCount, Threads
from qwenctl.engine.llama.tokenizer import EogTokens, TokenBytes, Tokenizer
from qwenctl.engine.llama.weights import Weights, load_weights
from qwenctl.engine.prompt.chat_template import ChatTemplate
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
    """Set YaRN scaling in `params` (llama_context_params) for a context longer than the model was `trained` on."""
    factor = rope_scaling_factor(tokens, trained)
    if factor > 1:
        params.rope_scaling_type = llama.LLAMA_ROPE_SCALING_TYPE_YARN
        params.rope_freq_scale = 1 / factor
        params.yarn_orig_ctx = trained


# Ends the thinking when its budget is used up, in the words of Qwen3's makers ("Thinking Budget" in their report).
_FORCED_THINK_END = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
)
_POST_THINK = "\n\n"
_LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1}  # enum llama_load_mode
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type
_NO_MEMORY = ("insufficient memory", "failed to allocate", "unable to allocate", "out of memory")


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model.

    `think_end_token` is the id of the token that closes the thinking, `tool_call_start_token` of the one that starts a
    tool call; None if the vocabulary has no single token for it.
    """

    pointer: llama.llama_model_p
    context: llama.llama_context_p
    vocabulary: llama.llama_vocab_p
    tokenizer: Tokenizer
    template: ChatTemplate
    token_bytes: TokenBytes
    eog_tokens: EogTokens
    logits: LogitsView
    think_end_token: int | None
    tool_call_start_token: int | None
    think_end_tokens: list[int]  # closes the thinking, as the template writes it
    forced_think_end_tokens: list[int]  # the same after a sentence, for thinking that is cut short
    post_think_tokens: list[int]
    sequence: KVSequence
    speculation: SpeculativeDecoder
    batch_tokens: int
    state_compat_key: Mapping[str, str]
    log: LlamaLog  # must live as long as libllama is used
    grammars: GrammarFactory
    vision: VisionState
    threads: Threads
    loaded: ModelInfo

    @property
    def vocabulary_size(self) -> int:
        """The number of token ids."""
        return self.logits.vocabulary_size


def load_model(request: Load, interrupt: CancelFlag, log: LlamaLog, report: Callable[[float], None]) -> LoadedModel:
    """Load the model at `request.path`; `report` receives the fraction that has been read.

    Raises RequestError with libllama's reason.
    """
    log.clear()
    llama.llama_backend_init()
    weights = _load_weights(request, interrupt, log, report)
    if weights is None:
        raise RequestError(_load_error(interrupt, log, f"cannot load {Path(request.path).name}"))
    pointer, settings = weights.pointer, request.settings
    trained = llama.llama_model_n_ctx_train(pointer)
    size = resolve_context_size(settings, trained)
    params = context_params(settings, size)
    apply_yarn(params, size, trained)
    limits = draft_limits(settings, params.n_batch, has_head=weights.has_mtp)
    reserve_draft_outputs(params, limits)
    context = llama.llama_init_from_model(pointer, params)
    if context is None:
        raise RequestError(_load_error(interrupt, log, f"cannot make a context of {size:,} tokens"))
    checkpoints = StateCheckpoints(context, _checkpoint_budget(settings))
    vision = VisionState(
        partial(
            VisionEncoder,
            model=pointer,
            threads=params.n_threads,
            interrupt=interrupt,
            log=log,
            uses_gpu=settings.gpu_layers != 0,
        )
    )
    sequence = KVSequence(context, size, checkpoints, interrupt, limits.longest, vision.embeddings)
    decoder = make_decoder(pointer, context, sequence, limits, params, settings.draft_min)
    vocabulary = llama.llama_model_get_vocab(pointer)
    if vocabulary is None:
        raise RequestError(RequestFailed("model", f"{Path(request.path).name} has no vocabulary"))
    tokenizer, token_bytes = Tokenizer(vocabulary), TokenBytes(vocabulary)
    template = _template(pointer, request)
    memory = memory_use(log.sizes(), device_by_buffer_type())
    loaded = replace(_describe(weights, request, size, template), memory=memory)
    return LoadedModel(
        pointer=pointer,
        context=context,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        template=_compile_template(template, request, tokenizer, vision, pointer),
        token_bytes=token_bytes,
        eog_tokens=EogTokens(vocabulary),
        logits=LogitsView(context, llama.llama_vocab_n_tokens(vocabulary)),
        think_end_token=_single_token(tokenizer.tokenize_template("</think>")),
        tool_call_start_token=_single_token(tokenizer.tokenize_template("<tool_call>")),
        think_end_tokens=tokenizer.tokenize_template(f"\n</think>{_POST_THINK}"),
        forced_think_end_tokens=tokenizer.tokenize_template(f"{_FORCED_THINK_END}</think>{_POST_THINK}"),
        post_think_tokens=tokenizer.tokenize_template(_POST_THINK),
        sequence=sequence,
        speculation=decoder,
        batch_tokens=settings.batch_tokens,
        state_compat_key=_state_compat_key(settings, loaded),
        log=log,
        grammars=GrammarFactory(vocabulary, tokenizer, token_bytes),
        vision=vision,
        threads=_threads(settings, params.n_threads, decoder.use_threads),
        loaded=loaded,
    )


def _threads(settings: LoadParams, max_threads: int, set_threads: Callable[[int], None]) -> Threads:
    is_fixed = not settings.adapts_threads
    prefill = ThreadCount(max_threads, set_threads, is_fixed=is_fixed, longest_step_s=LONGEST_TRIED_S)
    return Threads(ThreadCount(max_threads, set_threads, is_fixed=is_fixed), prefill)


def _single_token(tokens: list[int]) -> int | None:
    return tokens[0] if len(tokens) == 1 else None


def _checkpoint_budget(settings: LoadParams) -> int:
    """The memory budget for checkpoints: by default 2 GiB, but at most a twentieth of the RAM."""
    if settings.snapshot_bytes is not None:
        return settings.snapshot_bytes
    return int(min(2 << 30, psutil.virtual_memory().total // 20))


def _load_weights(
    request: Load, interrupt: CancelFlag, log: LlamaLog, report: Callable[[float], None]
) -> Weights | None:
    def progress(fraction: float, _user_data: ctypes.c_void_p) -> bool:
        report(fraction)
        return not interrupt

    params, alive = model_params(request.settings)
    params.progress_callback = llama.llama_progress_callback(progress)
    weights = load_weights(request.path, params, log, interrupt)
    del alive  # not earlier: libllama reads these arrays while it loads
    return weights


def model_params(settings: LoadParams) -> tuple[llama.llama_model_params, list[Any]]:
    """The parameters for loading the weights, and the arrays that must stay alive meanwhile. Raises RequestError."""
    params: llama.llama_model_params = llama.llama_model_default_params()
    params.n_gpu_layers = settings.gpu_layers
    params.load_mode = _LOAD_MODES[settings.load_mode]
    params.load_mtp = needs_mtp(settings)
    params.use_extra_bufts = settings.extra_buffers
    return params, apply_placement(params, settings.placement)


def resolve_context_size(settings: LoadParams, trained: int) -> int:
    """The context size in tokens. Raises RequestError for more than the model supports, which would yield nonsense."""
    longest = max_context(trained)
    if settings.context_tokens > longest:
        message = f"-c {settings.context_tokens}: the model supports {longest:,} tokens"
        raise RequestError(RequestFailed("setting", message, f"-c {longest}"))
    return settings.context_tokens or min(trained, DEFAULT_TOKENS)


def context_params(settings: LoadParams, size: int) -> llama.llama_context_params:
    """The parameters for a context of `size` tokens."""
    params: llama.llama_context_params = llama.llama_context_default_params()
    params.n_ctx = size
    params.n_batch = min(settings.batch_tokens, size)
    params.n_ubatch = min(settings.micro_batch_tokens, params.n_batch)
    # Only the last token's logits are read. By default libllama reserves buffers for the logits of a whole micro-batch,
    # half a gigabyte with Qwen3.5's vocabulary.
    params.n_outputs_max = 1
    params.n_threads = params.n_threads_batch = settings.threads or usable_cores()
    params.type_k = GGML_TYPES[settings.cache_type_k.upper()].id
    params.type_v = GGML_TYPES[settings.cache_type_v.upper()].id
    params.flash_attn_type = _FLASH_ATTENTION[settings.flash_attention]
    params.no_perf = True
    return params


def _load_error(interrupt: CancelFlag, log: LlamaLog, summary: str) -> RequestFailed:
    if interrupt:
        return RequestFailed("cancelled", "stopped while loading the model")
    reason = log.reason() or "llama.cpp gave no reason"
    memory = any(text in reason.lower() for text in _NO_MEMORY)
    hint = "a smaller context (-c), a smaller model, or -ctk q8_0 -ctv q8_0" if memory else ""
    return RequestFailed("memory" if memory else "model", f"{summary}: {reason}", hint)


def _template(pointer: llama.llama_model_p, request: Load) -> str:
    if request.template.source:
        return request.template.source
    template: bytes | None = llama.llama_model_chat_template(pointer, None)
    if not template:
        name = Path(request.path).name
        raise RequestError(RequestFailed("template", f"{name} has no chat template", "it is not a chat model"))
    return template.decode("utf-8", "replace")


def _compile_template(
    source: str, request: Load, tokenizer: Tokenizer, vision: VisionState, pointer: llama.llama_model_p
) -> ChatTemplate:
    vocabulary = llama.llama_model_get_vocab(pointer)
    return ChatTemplate(source, tokenizer, vision, request.template.variables, _special_tokens(pointer, vocabulary))


def _special_tokens(pointer: llama.llama_model_p, vocabulary: llama.llama_vocab_p) -> dict[str, str]:
    """The texts of the special tokens that the file names, by the names that templates know."""
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
    ids = {name: _metadata(pointer, f"tokenizer.ggml.{key}_token_id".encode()) for name, key in keys.items()}
    count = llama.llama_vocab_n_tokens(vocabulary)
    return {
        f"{name}_token": llama.llama_vocab_get_text(vocabulary, int(text)).decode("utf-8", "replace")
        for name, text in ids.items()
        if text.isdigit() and int(text) < count
    }


def _describe(weights: Weights, request: Load, size: int, template: str) -> ModelInfo:
    pointer = weights.pointer
    text = ctypes.create_string_buffer(256)
    llama.llama_model_desc(pointer, text, len(text))
    return ModelInfo(
        name=_metadata(pointer, b"general.name") or Path(request.path).stem,
        architecture=_metadata(pointer, b"general.architecture"),
        description=text.value.decode("utf-8", "replace").replace(" ?B", ""),  # an unnamed size of model
        size_bytes=weights.n_bytes,
        parameters=weights.parameters,
        context_tokens=size,
        training_context_tokens=llama.llama_model_n_ctx_train(pointer),
        generation_config=_generation_config(pointer),
        fingerprint=model_fingerprint(Path(request.path)),
        template_sha256=hashlib.sha256(template.encode()).hexdigest(),
    )


def _state_compat_key(settings: LoadParams, loaded: ModelInfo) -> dict[str, str]:
    """The properties that must match when a saved state is used, by names that appear in messages."""
    return {
        "model": loaded.fingerprint,
        "type of KV cache": f"{settings.cache_type_k} {settings.cache_type_v}",
        "scaling of positions": f"{rope_scaling_factor(loaded.context_tokens, loaded.training_context_tokens):g}",
        "version of llama-cpp-python": version("llama-cpp-python"),
    }


def _generation_config(pointer: llama.llama_model_p) -> dict[str, float]:
    """The sampling values of generation_config.json, stored in the GGUF file, by their field names in `Sampling`."""
    names = {"temperature": b"temp", "top_k": b"top_k", "top_p": b"top_p"}
    texts = {name: _metadata(pointer, b"general.sampling." + key) for name, key in names.items()}
    return {name: int(text) if name == "top_k" else float(text) for name, text in texts.items() if text}


def _metadata(pointer: llama.llama_model_p, key: bytes) -> str:
    """A metadata value of the file as text; "" if it has no such key."""
    size = 256
    while True:
        text = ctypes.create_string_buffer(size)
        length = llama.llama_model_meta_val_str(pointer, key, text, size)
        if length < size:
            return text.value.decode("utf-8", "replace") if length >= 0 else ""
        size = length + 1
