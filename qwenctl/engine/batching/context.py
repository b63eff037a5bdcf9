"""A context with many sequences: batches of tokens come in; the requested logits can be read afterwards.

Each sequence has its own cells (`kv_unified` is off), so evaluating one does not change another by a single bit. What
each sequence is used for is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import llama_cpp.llama_cpp as llama

from qwenctl.engine.kv.snapshots import get_sequence_state, set_sequence_state
from qwenctl.engine.kv.state_file import Bytes
from qwenctl.engine.kv.token_batch import BatchItem, TokenBatch
from qwenctl.engine.llama.thread_count import LONGEST_TRIED_S, ThreadCount
from qwenctl.engine.model import LoadedModel, context_params
from qwenctl.engine.request_errors import RequestError
from qwenctl.machine.ggml import all_devices, library
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import RequestFailed

_EXACT_TYPES = ("f32", "f16", "bf16")
_GPU_TYPES = (1, 2)  # enum ggml_backend_dev_type: GPU and integrated GPU


class MultiSequenceContext:
    """A context with `sequences` sequences of `size` tokens each; `n_batch` tokens are computed at once."""

    def __init__(self, model: LoadedModel, settings: LoadParams, sequences: int, size: int) -> None:
        """Raises RequestError if there is not enough memory."""
        model.log.clear()
        params = _params(settings, sequences, size)
        self.sequences, self.size, self.n_batch = sequences, size, params.n_ubatch
        self.pointer: llama.llama_context_p = llama.llama_init_from_model(model.pointer, params)
        if self.pointer is None:
            reason = model.log.reason() or "llama.cpp gave no reason"
            message = f"cannot make a context of {sequences} x {size:,} tokens: {reason}"
            raise RequestError(RequestFailed("memory", message, "reduce --parallel or -c"))
        self._memory = llama.llama_get_memory(self.pointer)
        self._threads = ThreadCount(
            params.n_threads, self._use_threads, is_fixed=not settings.adapts_threads, longest_step_s=LONGEST_TRIED_S
        )
        self._threads.begin()
        self._batch = TokenBatch(max(params.n_batch, sequences))

    def evaluate(self, items: Sequence[BatchItem]) -> list[int]:
        """Evaluate all items in one batch; return for each the row of its last token, to read its logits by.

        Raises RequestError if libllama fails.
        """
        batch, rows = self._batch.fill_sequences(items)
        self.decode(batch)
        return rows

    def decode(self, batch: llama.llama_batch) -> None:
        """Evaluate a batch. Raises RequestError if libllama fails."""
        status = llama.llama_decode(self.pointer, batch)
        if status:
            raise RequestError(RequestFailed("memory" if status < 0 else "context", f"llama_decode failed ({status})"))
        self._threads.step(batch.n_tokens)

    def copy(self, source: int, target: int) -> None:
        """Copy all of `source`, including its recurrent state, to the empty sequence `target`."""
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def clear_sequence(self, sequence: int) -> None:
        """Empty one sequence."""
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def state(self, sequence: int) -> Bytes:
        """A copy of the whole state of a sequence."""
        return get_sequence_state(self.pointer, sequence)

    def set_state(self, sequence: int, state: Bytes) -> bool:
        """Set an empty sequence to a state from `state`; return whether libllama accepted it."""
        return set_sequence_state(self.pointer, state, sequence)

    def clear(self) -> None:
        """Empty all sequences."""
        llama.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the context; it cannot be used afterwards."""
        llama.llama_free(self.pointer)

    def _use_threads(self, count: int) -> None:
        llama.llama_set_n_threads(self.pointer, count, count)


def _params(settings: LoadParams, sequences: int, size: int) -> llama.llama_context_params:
    """llama_context_params for `sequences` sequences of `size` tokens each."""
    params = context_params(replace(settings, flash_attention=_flash_attention(settings)), size * sequences)
    params.n_seq_max, params.kv_unified = sequences, False
    # At most one token per sequence needs logits in a batch.
    params.n_outputs_max = sequences
    params.n_ubatch = min(settings.micro_batch_tokens, size * sequences)
    params.n_batch = max(params.n_ubatch, sequences)
    return params


def _flash_attention(settings: LoadParams) -> Literal["auto", "on", "off"]:
    """Disable flash attention if the user left it on "auto" and no GPU is used.

    ggml's CPU kernel takes one of three paths through flash attention, depending on the number of tokens in a batch,
    which round differently (ggml-cpu/ops.cpp, `ggml_compute_forward_flash_attn_ext_f16`); an answer would depend, in
    its last bits, on what else is evaluated. Without it no operation does. A quantized cache of values needs it.
    """
    if settings.flash_attention != "auto" or settings.cache_type_v not in _EXACT_TYPES:
        return settings.flash_attention
    ggml = library()
    on_gpu = settings.gpu_layers != 0 and any(
        ggml.ggml_backend_dev_type(device) in _GPU_TYPES for device in all_devices(ggml)
    )
    return "auto" if on_gpu else "off"
