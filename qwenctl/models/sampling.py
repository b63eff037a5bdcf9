"""The sampling parameters a user may set: their names (llama.cpp's), their ranges, and how a text becomes a value.

Used by the flags of the command line and by `/set` in a chat alike; it knows nothing of either.
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

# Between the 2B model and the 4B model: the cards of the two smallest give values of their own.
_SMALL_PARAMETERS = 3_000_000_000


def recommended_sampling(think: bool, model: ModelInfo) -> Sampling:
    """The published values for `model`, thinking or not."""
    if think:
        carried: dict[str, Any] = model.generation_config
        return replace(Sampling(temperature=1.0, top_k=20, top_p=0.95, presence_penalty=1.5), **carried)
    if model.parameters < _SMALL_PARAMETERS:
        return Sampling(temperature=1.0, top_k=20, top_p=1.0, presence_penalty=2.0)
    return Sampling(temperature=0.7, top_k=20, top_p=0.8, presence_penalty=1.5)


Number = float | int


@dataclass(frozen=True)
class SamplingOption:
    """One parameter. `field` is its name in `protocol.Sampling`; both ends of the range belong to it."""

    name: str
    field: str
    lowest: Number
    highest: Number
    whole: bool
    meaning: str


# Ranges: where llama.cpp's samplers are defined (src/llama-sampler.cpp); penalties as the OpenAI API bounds them.
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


def resolve_sampling(given: Mapping[str, Number | None], think: bool, model: ModelInfo) -> Sampling:
    """What the model's makers publish, with what the user gave (by field name) in its place."""
    values: dict[str, Any] = dict(given)
    return replace(recommended_sampling(think, model), **values)


def find(name: str) -> SamplingOption:
    """The option called `name`, also by its field name. Raises QwenctlError with the nearest names."""
    wanted = name.lstrip("-").lower().replace("_", "-")
    wanted = "temp" if wanted == "temperature" else wanted
    if wanted not in SAMPLING_OPTIONS:
        near = difflib.get_close_matches(wanted, SAMPLING_OPTIONS, n=3) or list(SAMPLING_OPTIONS)
        raise QwenctlError(f"no such sampling parameter: {name!r}", f"available: {', '.join(near)}")
    return SAMPLING_OPTIONS[wanted]


def parse_value(option: SamplingOption, text: str) -> Number | None:
    """The value that `text` says; None for a seed to be drawn. Raises QwenctlError outside the range."""
    number = parse_number(text, option.lowest, option.highest, whole=option.whole)
    return None if option.name == "seed" and number < 0 else number


def parse_number(text: str, lowest: Number, highest: Number, *, whole: bool) -> Number:
    """A finite number from `lowest` to `highest`. Raises QwenctlError with a message that reads after a name."""
    kind = "whole number" if whole else "number"
    try:
        number: Number = int(text) if whole else float(text)
    except ValueError as error:
        raise QwenctlError(f"{text!r} is not a {kind}") from error
    if isinstance(number, float) and not math.isfinite(number):
        raise QwenctlError(f"{text!r} is not a finite number")
    if number < lowest or number > highest:
        limits = f"of at least {lowest:,}" if number < lowest and whole else f"from {lowest:,} to {highest:,}"
        raise QwenctlError(f"{text} is out of range: it must be a {kind} {limits}")
    return number
