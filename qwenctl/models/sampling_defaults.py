"""The sampling values that the makers of Qwen3.5 publish for it.

Whether the model thinks, and what was loaded, come in; a `Sampling` goes out. Sources: the "best practices" of the
model cards of Qwen3.5, for general tasks; for thinking, generation_config.json has the last word where the file
carries it, since a fine-tune brings its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qwenctl.protocol.messages import Loaded, Sampling

# Between the 2B model and the 4B model: the cards of the two smallest give values of their own.
_SMALL_PARAMETERS = 3_000_000_000


def published_sampling(think: bool, model: Loaded) -> Sampling:
    """The published values for `model`, thinking or not."""
    if think:
        carried: dict[str, Any] = model.generation_config
        return replace(Sampling(temperature=1.0, top_k=20, top_p=0.95, presence_penalty=1.5), **carried)
    if model.parameters < _SMALL_PARAMETERS:
        return Sampling(temperature=1.0, top_k=20, top_p=1.0, presence_penalty=2.0)
    return Sampling(temperature=0.7, top_k=20, top_p=0.8, presence_penalty=1.5)
