"""Recipes: which ggml type each tensor gets for a named file type such as Q4_K_M.

Names and shapes come in, a type for each comes out; no weight and no file is looked at. The mixes are those of
llama-quantize (`llama_tensor_get_type_impl` in src/llama-quant.cpp), down to its counters, so that a file made here has
the types that users know by its name. `--tensor-type` overrides are regular expressions; the last that matches wins.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quantize.errors import BadOption
from quantize.ggml.types import GGML_TYPES, GGMLType


@dataclass(frozen=True)
class Recipe:
    """A file type: its `llama_ftype` number and the type of a tensor for which the mix makes no exception."""

    name: str
    file_type: int
    default: str


RECIPES: dict[str, Recipe] = {
    name: Recipe(name, file_type, default)
    for name, file_type, default in (
        ("F32", 0, "F32"), ("F16", 1, "F16"), ("BF16", 32, "BF16"),
        ("Q8_0", 7, "Q8_0"), ("Q6_K", 18, "Q6_K"),
        ("Q5_K_M", 17, "Q5_K"), ("Q5_K_S", 16, "Q5_K"), ("Q5_1", 9, "Q5_1"), ("Q5_0", 8, "Q5_0"),
        ("Q4_K_M", 15, "Q4_K"), ("Q4_K_S", 14, "Q4_K"), ("Q4_1", 3, "Q4_1"), ("Q4_0", 2, "Q4_0"),
        ("IQ4_NL", 25, "IQ4_NL"), ("IQ4_XS", 30, "IQ4_XS"), ("MXFP4_MOE", 38, "MXFP4"),
        ("Q3_K_L", 13, "Q3_K"), ("Q3_K_M", 12, "Q3_K"), ("Q3_K_S", 11, "Q3_K"), ("Q2_K", 10, "Q2_K"),
        ("IQ3_M", 27, "IQ3_S"), ("IQ3_S", 26, "IQ3_S"), ("IQ3_XXS", 23, "IQ3_XXS"),
        ("IQ2_M", 29, "IQ2_S"), ("IQ2_S", 28, "IQ2_XS"), ("IQ2_XS", 20, "IQ2_XS"), ("IQ2_XXS", 19, "IQ2_XXS"),
    )
}  # fmt: skip

_TWO_BIT = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
_FALLBACKS = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
    "IQ2_XXS": "IQ4_NL", "IQ2_XS": "IQ4_NL", "IQ2_S": "IQ4_NL", "IQ3_XXS": "IQ4_NL", "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
}  # fmt: skip
_NEED_IMATRIX = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")


@dataclass(frozen=True)
class Override:
    """A `--tensor-type`: tensors whose name `pattern` is found in get `kind`."""

    pattern: re.Pattern[str]
    kind: GGMLType


@dataclass(frozen=True)
class RecipeContext:
    """What a mix depends on besides names: `layers` counts the MTP block, `query_groups` is heads per KV head."""

    layers: int
    experts: int
    query_groups: int
    has_imatrix: bool


def find_recipe(name: str) -> Recipe:
    """The recipe called `name` in any case. Raises BadOption with the nearest names."""
    recipe = RECIPES.get(name.upper().replace("-", "_"))
    if recipe is None:
        raise BadOption(f"unknown quantization '{name}'", _nearest(name, RECIPES))
    return recipe


def parse_override(text: str) -> Override:
    """An override from `PATTERN=TYPE`. Raises BadOption."""
    pattern, separator, kind = text.rpartition("=")
    if not separator or not pattern:
        raise BadOption(f"--tensor-type '{text}' is not PATTERN=TYPE", "for example --tensor-type 'ffn_down_exps=q6_k'")
    if kind.upper() not in _TENSOR_TYPES:
        raise BadOption(f"unknown tensor type '{kind}' in --tensor-type '{text}'", _nearest(kind, _TENSOR_TYPES))
    try:
        return Override(re.compile(pattern), GGML_TYPES[kind.upper()])
    except re.error as error:
        raise BadOption(f"--tensor-type '{text}' has a bad pattern: {error}") from error


_TENSOR_TYPES = sorted({"F32", "F16", "BF16", *_FALLBACKS, *_FALLBACKS.values(), "Q4_1", "MXFP4"})


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name.upper(), names, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"one of {', '.join(names)}"


def is_quantizable(name: str, shape: Sequence[int]) -> bool:
    """Whether llama.cpp keeps this tensor in another type than F32 (GGUF name, GGUF shape)."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    kept = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", ".position_embd", ".patch_embd")
    return len(shape) > 1 and name.endswith("weight") and not any(part in name for part in kept)


def needs_imatrix(name: str, kind: GGMLType) -> bool:
    """Whether this type is useless for this tensor without an importance matrix."""
    return kind.name in _NEED_IMATRIX and name not in ("token_embd.weight", "output.weight")


def assign_types(
    recipe: Recipe, shapes: dict[str, tuple[int, ...]], facts: RecipeContext, overrides: Sequence[Override]
) -> dict[str, GGMLType]:
    """A type for each tensor of `shapes` (GGUF name to GGUF shape, in file order).

    Raises BadOption if an override matches no tensor that can be quantized.
    """
    mix = _MixRules(recipe.name, facts, shapes)
    types, used = {}, set[Override]()
    for name, shape in shapes.items():
        if not is_quantizable(name, shape):
            types[name] = GGML_TYPES["F32"]
            continue
        override = next((one for one in reversed(overrides) if one.pattern.search(name)), None)
        used |= {one for one in overrides if one.pattern.search(name)}
        if override:
            kind = override.kind.name
        elif recipe.name in ("F32", "F16", "BF16"):
            kind = recipe.default
        else:
            kind = mix.choose(name, shape, recipe.default)
        types[name] = _fitting(kind, shape[0])
    for one in overrides:
        if one not in used:
            raise BadOption(
                f"--tensor-type '{one.pattern.pattern}' matches no tensor that can be quantized",
                "--dry-run --json lists the tensors",
            )
    return types


def choose_vision_type(recipe: Recipe, name: str, shape: tuple[int, ...]) -> GGMLType:
    """The type of a tensor of the mmproj file, for the recipes F32, F16 and BF16 (llama.cpp's converter)."""
    if ".patch_embd.weight" in name:
        return GGML_TYPES["F16" if recipe.name == "F16" else "F32"]
    return GGML_TYPES[recipe.default if is_quantizable(name, shape) else "F32"]


def _fitting(kind: str, row_length: int) -> GGMLType:
    """`kind`, or what llama-quantize takes where the row does not divide into its blocks."""
    for name in (kind, _FALLBACKS.get(kind, kind)):
        if row_length % GGML_TYPES[name].block_elements == 0:
            return GGML_TYPES[name]
    return GGML_TYPES["F16"]


class _MixRules:
    """The exceptions of one mix. It counts tensors as llama-quantize does, so the order of calls matters."""

    def __init__(self, recipe: str, facts: RecipeContext, shapes: dict[str, tuple[int, ...]]) -> None:
        self.recipe, self.facts = recipe, facts
        self.tied = "output.weight" not in shapes
        self.n_values = sum("attn_v.weight" in name or "attn_qkv.weight" in name for name in shapes)
        self.i_value = 0
        self.i_down = 0

    def choose(self, name: str, shape: tuple[int, ...], default: str) -> str:
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            return self._output(shape, default)
        if self.recipe == "MXFP4_MOE":
            return "MXFP4" if len(shape) > 2 and shape[2] > 1 else "Q8_0"
        if name == "token_embd.weight":
            embeddings = {"IQ2_XXS": "Q2_K", "IQ2_XS": "Q2_K", "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S", "IQ3_XXS": "IQ3_S"}
            return embeddings.get(self.recipe, default)
        if self.recipe in _TWO_BIT:
            return self._two_bit(name, default)
        if "attn_v.weight" in name or "attn_qkv.weight" in name:
            return self._value(default)
        if "attn_k.weight" in name and self.facts.experts == 8:
            return "Q8_0"
        if "attn_k.weight" in name or "attn_q.weight" in name:
            return "IQ2_S" if self.recipe == "IQ3_XXS" else default
        if "ffn_down" in name:
            return self._down(name, default)
        return self._attention_output(default) if "attn_output.weight" in name else default

    def _output(self, shape: tuple[int, ...], default: str) -> str:
        if self.recipe == "MXFP4_MOE" or shape[0] % GGML_TYPES[default].block_elements:
            return "Q8_0"
        if self.recipe in (*_TWO_BIT, "IQ3_XXS"):
            return "Q5_K"
        return default if default == "Q8_0" else "Q6_K"

    def _two_bit(self, name: str, default: str) -> str:
        better = "IQ3_S" if self.recipe in ("IQ2_S", "IQ2_M") else "Q2_K"
        if "attn_v.weight" in name or "attn_qkv.weight" in name:
            return "Q4_K" if self.facts.query_groups >= 4 or self.facts.experts >= 4 else better
        if "attn_k.weight" in name and self.facts.experts == 8:
            return "Q4_K"
        if "ffn_down" in name:
            self.i_down += 1
            return better if self.i_down - 1 < self.facts.layers // 8 else default
        if "attn_output.weight" in name:
            return "Q5_K" if self.facts.experts == 8 else "IQ3_S" if better == "IQ3_S" else default
        return default

    def _value(self, default: str) -> str:
        place, self.i_value = self.i_value, self.i_value + 1
        if self.facts.experts == 8:
            return "Q8_0"
        grouped = self.facts.query_groups >= 4
        match self.recipe:
            case "Q2_K":
                return "Q4_K" if grouped else "Q3_K"
            case "IQ3_XXS":
                return "Q4_K" if grouped else default if self.facts.has_imatrix else "IQ3_S"
            case "IQ3_S":
                return "Q4_K" if grouped else default
            case "IQ3_M":
                return "Q4_K"
            case "Q3_K_M":
                return "Q5_K" if place < 2 else "Q4_K"
            case "Q3_K_L":
                return "Q5_K"
            case "IQ4_NL" | "IQ4_XS":
                return "Q5_K" if grouped else default
            case "Q4_K_M" | "Q5_K_M":
                return "Q6_K" if _more_bits(place, self.n_values) else default
            case "Q4_K_S":
                return "Q5_K" if place < 4 else default
        return default

    def _down(self, name: str, default: str) -> str:
        layers = self.facts.layers
        # llama-quantize reads the layer off the name in a mixture of experts only; else it counts its calls.
        layer = int(name.split(".")[1]) if self.facts.experts > 1 else self.i_down
        self.i_down += 1
        first, imatrix = layer < layers // 8, self.facts.has_imatrix
        match self.recipe:
            case "Q2_K":
                return "Q3_K"
            case "IQ3_XXS" if not imatrix:
                return "Q4_K" if first else "Q3_K"
            case "Q3_K_M":
                return "Q5_K" if layer < layers // 16 else "Q4_K"
            case "IQ3_M":
                return "Q4_K" if first or (self.facts.experts == 8 and _more_bits(layer, layers)) else default
            case "Q3_K_L":
                return "Q5_K"
            case "Q4_K_M" | "Q5_K_M":
                return "Q6_K" if _more_bits(layer, layers) else default
            case "IQ4_NL" | "IQ4_XS" if not imatrix:
                return "Q5_K" if first else default
            case "Q4_K_S":
                return "Q5_K" if first else default
            case "Q4_0" | "Q5_0" if imatrix:
                return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[self.recipe] if first else default
        return default

    def _attention_output(self, default: str) -> str:
        if self.facts.experts == 8:
            five = "Q2_K IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS".split()
            return "Q5_K" if self.recipe in five else default
        exceptions = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
        return exceptions.get(self.recipe, default)


def _more_bits(place: int, of: int) -> bool:
    return place < of // 8 or place >= 7 * of // 8 or (place - of // 8) % 3 == 2
