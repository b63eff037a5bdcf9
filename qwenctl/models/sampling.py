"""The sampling parameters that a user may set: names (llama.cpp's), ranges, recommended values, and parsing.

Text and model facts come in, values go out. The command line's flags and a chat's `/set` both use this module; neither
is known here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwenctl.errors import QwenctlError
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.messages import Sampling

# Seeds that leave the same remainder are the same: llama.cpp's have 32 bits, and the largest of them means "draw one".
SEEDS = 2**32 - 1
# Between the 2B and the 4B model: the model cards of the two smallest models recommend different values.
_SMALL_PARAMETERS = 3_000_000_000


def recommended_sampling(enable_thinking: bool, model: ModelInfo) -> Sampling:
    """The sampling that the model card recommends for `model`, with or without thinking."""
    if enable_thinking:
        generation_config: dict[str, Any] = model.generation_config
        return replace(Sampling(temperature=1.0, top_k=20, top_p=0.95, presence_penalty=1.5), **generation_config)
    if model.parameters < _SMALL_PARAMETERS:
        return Sampling(temperature=1.0, top_k=20, top_p=1.0, presence_penalty=2.0)
    return Sampling(temperature=0.7, top_k=20, top_p=0.8, presence_penalty=1.5)


Number = float | int


@dataclass(frozen=True)
class SamplingOption:
    """One parameter. `field` is its name in `protocol.messages.Sampling`; the range includes both ends."""

    name: str
    field: str
    minimum: Number
    maximum: Number
    is_integer: bool
    help: str  # one line, shown to users


# Ranges: the domains of llama.cpp's samplers (src/llama-sampler.cpp); penalties are bounded as in the OpenAI API.
SAMPLING_OPTIONS: Mapping[str, SamplingOption] = {
    option.name: option
    for option in (
        SamplingOption("temp", "temperature", 0.0, 100.0, False, "temperature; 0 always takes the most likely token"),
        SamplingOption("top-k", "top_k", 0, 2**31 - 1, True, "keep the K most likely tokens; 0 keeps all"),
        SamplingOption("top-p", "top_p", 0.0, 1.0, False, "keep the most likely tokens that add up to P"),
        SamplingOption("min-p", "min_p", 0.0, 1.0, False, "drop tokens below P times the most likely one"),
        SamplingOption("presence-penalty", "presence_penalty", -2.0, 2.0, False, "penalty for tokens already used"),
        SamplingOption("frequency-penalty", "frequency_penalty", -2.0, 2.0, False, "penalty for tokens used often"),
        SamplingOption("repeat-penalty", "repeat_penalty", 0.01, 10.0, False, "penalty for repetition; 1 is off"),
        SamplingOption(
            "repeat-last-n", "repeat_last_n", -1, 2**31 - 1, True, "tokens that penalties look back; -1: the context"
        ),
        SamplingOption("seed", "seed", -1, 2**32 - 1, True, "random seed; -1 draws one"),
    )
}


def resolve_sampling(options: Mapping[str, Number | None], enable_thinking: bool, model: ModelInfo) -> Sampling:
    """The recommended sampling for `model`, overridden by the user's `options` (by field name)."""
    values: dict[str, Any] = dict(options)
    return replace(recommended_sampling(enable_thinking, model), **values)


def normalize_seed(seed: int) -> int:
    """The seed that stands for `seed`, any whole number: its remainder on division by `SEEDS`. It is never random."""
    return seed % SEEDS


def find_option(name: str) -> SamplingOption:
    """Find the option called `name`, also by field name. Raises QwenctlError that lists the nearest names."""
    key = name.lstrip("-").lower().replace("_", "-")
    key = "temp" if key == "temperature" else key
    if key not in SAMPLING_OPTIONS:
        near = difflib.get_close_matches(key, SAMPLING_OPTIONS, n=3) or list(SAMPLING_OPTIONS)
        raise QwenctlError(f"no such sampling parameter: {name!r}", f"available: {', '.join(near)}")
    return SAMPLING_OPTIONS[key]


def parse_value(option: SamplingOption, text: str) -> Number | None:
    """Parse the value of `option`; None for a random seed (-1). Raises QwenctlError if it is outside the range."""
    number = parse_number(text, option.minimum, option.maximum, is_integer=option.is_integer)
    return None if option.name == "seed" and number < 0 else number


def parse_number(text: str, minimum: Number, maximum: Number, *, is_integer: bool) -> Number:
    """Parse a finite number from `minimum` to `maximum`. Raises QwenctlError whose message can follow a name."""
    noun = "whole number" if is_integer else "number"
    try:
        number: Number = int(text) if is_integer else float(text)
    except ValueError as error:
        raise QwenctlError(f"{text!r} is not a {noun}") from error
    if isinstance(number, float) and not math.isfinite(number):
        raise QwenctlError(f"{text!r} is not a finite number")
    if number < minimum or number > maximum:
        limits = f"of at least {minimum:,}" if number < minimum and is_integer else f"from {minimum:,} to {maximum:,}"
        raise QwenctlError(f"{text} is out of range: it must be a {noun} {limits}")
    return number
