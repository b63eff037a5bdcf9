"""Tells libllama of the scaling of positions (YaRN) that a long context needs; none for one that needs none."""

from __future__ import annotations

from typing import Any

import llama_cpp.llama_cpp as llama

from qwenctl.models.context_length import scaling_factor


def scale(params: Any, tokens: int, trained: int) -> None:
    """Set the fields of `params` (llama_context_params) for a context of `tokens` and a model trained on `trained`."""
    factor = scaling_factor(tokens, trained)
    if factor > 1:
        params.rope_scaling_type = llama.LLAMA_ROPE_SCALING_TYPE_YARN
        params.rope_freq_scale = 1 / factor
        params.yarn_orig_ctx = trained
