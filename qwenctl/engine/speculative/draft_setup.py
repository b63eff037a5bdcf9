"""What a model and its context need for drafts: how long they may be, and the parameters of both contexts.

Settings and a loaded model come in, limits, parameters and a decoder go out. When drafts are made is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama

from qwenctl.engine.kv.sequence import MAX_REPLAY_TOKENS, KVSequence
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.speculative.controller import DraftController
from qwenctl.engine.speculative.decoder import SpeculativeDecoder
from qwenctl.engine.speculative.mtp_head import MAX_HEAD_BATCH, MtpDrafter
from qwenctl.models.context_memory import MTP_HEAD_TOKENS
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import RequestFailed

# The MTP head was trained to predict one token, and each further one, from its own prediction, is worse; what the text
# repeats is long.
_MTP_TOKENS, _NGRAM_TOKENS = 3, 16
_SEQUENCES = 2  # the tokens that are held, and the state before a draft


@dataclass(frozen=True)
class DraftLimits:
    """The most tokens of one draft, by source: the MTP head, and n-grams of the text."""

    mtp: int = 0
    ngram: int = 0

    @property
    def longest(self) -> int:
        """The larger of the two limits."""
        return max(self.mtp, self.ngram)


def needs_mtp(settings: LoadParams) -> bool:
    """Whether the tensors of the MTP head are to be loaded, if the model has one."""
    return settings.draft in ("auto", "mtp")


def draft_limits(settings: LoadParams, n_batch: int, *, has_head: bool) -> DraftLimits:
    """How long drafts may be. Raises RequestError if an MTP head is asked for that the model does not have."""
    if settings.draft == "mtp" and not has_head:
        hint = "use --draft ngram or --draft off"
        raise RequestError(RequestFailed("setting", "the model has no draft head (multi-token-prediction block)", hint))
    limit = max(0, n_batch - 1 - MAX_REPLAY_TOKENS)
    mtp = min(settings.draft_max or _MTP_TOKENS, limit) if has_head and needs_mtp(settings) else 0
    ngram = min(settings.draft_max or _NGRAM_TOKENS, limit) if settings.draft in ("auto", "ngram") else 0
    return DraftLimits(mtp, ngram)


def reserve_draft_outputs(params: Any, limits: DraftLimits) -> None:
    """Set the fields of the model's context (llama_context_params) for logits of each draft and a second sequence."""
    if limits.longest:
        params.n_outputs_max = max(_SEQUENCES, limits.longest + 1)
        params.n_seq_max, params.kv_unified = _SEQUENCES, True


def mtp_context_params(params: Any, context: llama.llama_context_p) -> Any:
    """Turn the parameters of the model's `context` into those of the context of its MTP head."""
    params.ctx_type, params.ctx_other = llama.LLAMA_CONTEXT_TYPE_MTP, context
    params.n_ctx, params.n_seq_max, params.n_outputs_max = MTP_HEAD_TOKENS, 1, 1
    params.n_batch = params.n_ubatch = MAX_HEAD_BATCH
    return params


def make_decoder(
    model: llama.llama_model_p,
    context: llama.llama_context_p,
    sequence: KVSequence,
    limits: DraftLimits,
    params: Any,
    min_length: int,
) -> SpeculativeDecoder:
    """The decoder of a model; `params` are those of its `context`, and are changed.

    With `min_length` each draft has that many tokens at least, whether it pays or not. Raises RequestError if there is
    no memory for the context of the MTP head.
    """
    head = None
    if limits.mtp:
        own = llama.llama_init_from_model(model, mtp_context_params(params, context))
        if own is None:
            hint = "--draft ngram needs no memory for it"
            raise RequestError(RequestFailed("memory", "cannot create a context for the draft head", hint))
        vocabulary_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        head = MtpDrafter(context, own, llama.llama_model_n_embd_out(model), vocabulary_size)
    controller = DraftController(min(min_length, limits.longest))
    return SpeculativeDecoder(sequence, controller, head, limits.mtp, limits.ngram)
