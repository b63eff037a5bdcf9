"""What a model needs to draft tokens: how many of which source, what its context must have room for, and its head.

The settings of a load come in; libllama's parameters are set, and a `Speculation` goes out. When drafts are made is not
known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama

from qwenctl.engine.kv.sequence import OWED_TOKENS, TokenSequence
from qwenctl.engine.request_errors import RequestFailure
from qwenctl.engine.speculative.controller import Governor
from qwenctl.engine.speculative.decoder import Speculation
from qwenctl.engine.speculative.mtp_head import LONGEST_BATCH, DraftHead
from qwenctl.models.context_memory import DRAFT_HEAD_TOKENS
from qwenctl.protocol.messages import EngineSettings, Failed

# The head was trained to guess one token, and each further one, from its own guess, is worse; copied text is long.
_HEAD_TOKENS, _NGRAM_TOKENS = 3, 16
_SEQUENCES = 2  # what is held, and what was held before a draft


@dataclass(frozen=True)
class DraftLimits:
    """The most tokens of one draft, by source: of the model's head, and of the text so far."""

    head: int = 0
    ngram: int = 0

    @property
    def longest(self) -> int:
        """Of any source."""
        return max(self.head, self.ngram)


def wants_head(settings: EngineSettings) -> bool:
    """Whether the tensors of the draft head are to be loaded, if there are any."""
    return settings.draft in ("auto", "mtp")


def draft_limits(settings: EngineSettings, model: llama.llama_model_p, n_batch: int) -> DraftLimits:
    """What may be drafted. Raises RequestFailure for a head that the model does not have."""
    has_head = llama.llama_model_n_layer_nextn(model) > 0
    if settings.draft == "mtp" and not has_head:
        hint = "--draft ngram drafts from the text, --draft off not at all"
        raise RequestFailure(Failed("setting", "the model has no draft head (multi-token-prediction block)", hint))
    most = max(0, n_batch - 1 - OWED_TOKENS)
    head = min(settings.draft_max or _HEAD_TOKENS, most) if has_head and wants_head(settings) else 0
    ngram = min(settings.draft_max or _NGRAM_TOKENS, most) if settings.draft in ("auto", "ngram") else 0
    return DraftLimits(head, ngram)


def make_room(params: Any, limits: DraftLimits) -> None:
    """Set the fields of the model's context (llama_context_params): logits of each draft, and a second sequence."""
    if limits.longest:
        params.n_outputs_max = max(_SEQUENCES, limits.longest + 1)
        params.n_seq_max, params.kv_unified = _SEQUENCES, True


def head_params(params: Any, context: llama.llama_context_p) -> Any:
    """Make of the parameters of the model's context those of its head's."""
    params.ctx_type, params.ctx_other = llama.LLAMA_CONTEXT_TYPE_MTP, context
    params.n_ctx, params.n_seq_max, params.n_outputs_max = DRAFT_HEAD_TOKENS, 1, 1
    params.n_batch = params.n_ubatch = LONGEST_BATCH
    return params


def speculation(
    model: llama.llama_model_p,
    context: llama.llama_context_p,
    sequence: TokenSequence,
    limits: DraftLimits,
    params: Any,
    shortest: int,
) -> Speculation:
    """The drafts of a model; `params` are those of its `context`. Raises RequestFailure."""
    head = None
    if limits.head:
        own = llama.llama_init_from_model(model, head_params(params, context))
        if own is None:
            hint = "--draft ngram needs no memory for it"
            raise RequestFailure(Failed("memory", "cannot make a context for the draft head", hint))
        vocabulary_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        head = DraftHead(context, own, llama.llama_model_n_embd_out(model), vocabulary_size)
    return Speculation(sequence, Governor(min(shortest, limits.longest)), head, limits.head, limits.ngram)
