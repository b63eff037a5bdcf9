"""Recipes: which ggml type each tensor gets for a named file type such as Q4_K_M.

Tensor names and shapes come in, a type for each goes out; weights and files are not known here. The mixes are those of
llama-quantize (`llama_tensor_get_type_impl` in src/llama-quant.cpp), including its counters, so that a file made here
has the types that users expect from its name. `--tensor-type` overrides are regular expressions; the last match wins.
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
    """A file type: its `llama_ftype` number, and the `default` type of tensors without an exception in the mix."""

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
# llama-quantize's substitutes for tensors whose rows are not a whole number of blocks, which are 256 weights in K- and
# most IQ-types and 32 in the substitutes.
_FALLBACKS = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
    "IQ2_XXS": "IQ4_NL", "IQ2_XS": "IQ4_NL", "IQ2_S": "IQ4_NL", "IQ3_XXS": "IQ4_NL", "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
}  # fmt: skip
_NEED_IMATRIX = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")


@dataclass(frozen=True)
class Override:
    """A `--tensor-type` override: tensors whose name contains a match of `pattern` get `ggml_type`."""

    pattern: re.Pattern[str]
    ggml_type: GGMLType


@dataclass(frozen=True)
class RecipeContext:
    """What a mix depends on besides names. `layers` includes the MTP block; `query_groups`: query heads per KV head."""

    layers: int
    experts: int
    query_groups: int
    has_imatrix: bool


def find_recipe(name: str, option: str = "") -> Recipe:
    """Find the recipe called `name`, ignoring case. Raises BadOption that suggests the nearest names.

    `option` is the option that it was given for, if there is one.
    """
    recipe = RECIPES.get(name.upper().replace("-", "_"))
    if recipe is None:
        raise BadOption(f"{option}{': ' * bool(option)}unknown quantization '{name}'", _nearest_hint(name, RECIPES))
    return recipe


def parse_override(text: str) -> Override:
    """Parse an override from `PATTERN=TYPE`. Raises BadOption."""
    pattern, separator, type_name = text.rpartition("=")
    if not separator or not pattern:
        raise BadOption(f"--tensor-type '{text}' is not PATTERN=TYPE", "for example --tensor-type 'ffn_down_exps=q6_k'")
    if type_name.upper() not in _TENSOR_TYPES:
        raise BadOption(
            f"unknown tensor type '{type_name}' in --tensor-type '{text}'", _nearest_hint(type_name, _TENSOR_TYPES)
        )
    try:
        return Override(re.compile(pattern), GGML_TYPES[type_name.upper()])
    except re.error as error:
        raise BadOption(f"--tensor-type '{text}' has a bad pattern: {error}") from error


_TENSOR_TYPES = sorted({"F32", "F16", "BF16", *_FALLBACKS, *_FALLBACKS.values(), "Q4_1", "MXFP4"})


def _nearest_hint(name: str, choices: Iterable[str]) -> str:
    names = list(choices)
    close = difflib.get_close_matches(name.upper(), names, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"one of {', '.join(names)}"


def is_quantizable(name: str, shape: Sequence[int]) -> bool:
    """Whether llama.cpp stores this tensor (GGUF name and shape) in a type other than F32."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    unquantized = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", ".position_embd", ".patch_embd")
    return len(shape) > 1 and name.endswith("weight") and not any(part in name for part in unquantized)


def needs_imatrix(name: str, ggml_type: GGMLType) -> bool:
    """Whether this type is useless for this tensor without an importance matrix."""
    return ggml_type.name in _NEED_IMATRIX and name not in ("token_embd.weight", "output.weight")


def assign_types(
    recipe: Recipe, shapes: dict[str, tuple[int, ...]], context: RecipeContext, overrides: Sequence[Override]
) -> dict[str, GGMLType]:
    """Assign a type to each tensor of `shapes` (GGUF name to GGUF shape, in file order).

    Raises BadOption if an override matches no tensor that can be quantized.
    """
    mix = _MixRules(recipe.name, context, shapes)
    types, used = {}, set[Override]()
    for name, shape in shapes.items():
        if not is_quantizable(name, shape):
            types[name] = GGML_TYPES["F32"]
            continue
        override = next((candidate for candidate in reversed(overrides) if candidate.pattern.search(name)), None)
        # An override that another one supersedes still counts as used: it matched.
        used |= {candidate for candidate in overrides if candidate.pattern.search(name)}
        if override:
            type_name = override.ggml_type.name
        elif recipe.name in ("F32", "F16", "BF16"):
            type_name = recipe.default
        else:
            type_name = mix.choose(name, shape, recipe.default)
        types[name] = _type_for_row(type_name, shape[0])
    for candidate in overrides:
        if candidate not in used:
            raise BadOption(
                f"--tensor-type '{candidate.pattern.pattern}' matches no tensor that can be quantized",
                "--dry-run --json lists the tensors",
            )
    return types


def choose_vision_type(recipe: Recipe, name: str, shape: tuple[int, ...]) -> GGMLType:
    """Choose the type of an mmproj tensor for the recipe F32, F16 or BF16, as llama.cpp's converter does."""
    if ".patch_embd.weight" in name:
        return GGML_TYPES["F16" if recipe.name == "F16" else "F32"]
    return GGML_TYPES[recipe.default if is_quantizable(name, shape) else "F32"]


def _type_for_row(type_name: str, row_length: int) -> GGMLType:
    """`type_name`, or llama-quantize's fallback if a row is not a whole number of its blocks."""
    for name in (type_name, _FALLBACKS.get(type_name, type_name)):
        if row_length % GGML_TYPES[name].block_elements == 0:
            return GGML_TYPES[name]
    return GGML_TYPES["F16"]


class _MixRules:
    """The exceptions of one mix. Like llama-quantize it counts tensors, so the order of calls matters."""

    def __init__(self, recipe: str, context: RecipeContext, shapes: dict[str, tuple[int, ...]]) -> None:
        self.recipe, self.context = recipe, context
        self.tied = "output.weight" not in shapes  # then the embeddings are the output matrix as well
        # llama-quantize's counters, by its names.
        self.n_attention_wv = sum("attn_v.weight" in name or "attn_qkv.weight" in name for name in shapes)
        self.i_attention_wv = 0
        self.i_ffn_down = 0

    def choose(self, name: str, shape: tuple[int, ...], default: str) -> str:
        """The type name of a tensor; `default` is that of the recipe."""
        # The order of the checks is that of llama-quantize. Its rules for exactly 8 experts are for Mixtral 8x7B.
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
        if "attn_k.weight" in name and self.context.experts == 8:
            return "Q8_0"
        if "attn_k.weight" in name or "attn_q.weight" in name:
            return "IQ2_S" if self.recipe == "IQ3_XXS" else default
        if "ffn_down" in name:
            return self._down(name, default)
        return self._attention_output(default) if "attn_output.weight" in name else default

    def _output(self, shape: tuple[int, ...], default: str) -> str:
        """The type of the output matrix."""
        if self.recipe == "MXFP4_MOE" or shape[0] % GGML_TYPES[default].block_elements:
            return "Q8_0"
        if self.recipe in (*_TWO_BIT, "IQ3_XXS"):
            return "Q5_K"
        return default if default == "Q8_0" else "Q6_K"

    def _two_bit(self, name: str, default: str) -> str:
        """The type of a tensor in the IQ2 mixes."""
        better = "IQ3_S" if self.recipe in ("IQ2_S", "IQ2_M") else "Q2_K"
        if "attn_v.weight" in name or "attn_qkv.weight" in name:
            return "Q4_K" if self.context.query_groups >= 4 or self.context.experts >= 4 else better
        if "attn_k.weight" in name and self.context.experts == 8:
            return "Q4_K"
        if "ffn_down" in name:
            self.i_ffn_down += 1
            return better if self.i_ffn_down - 1 < self.context.layers // 8 else default
        if "attn_output.weight" in name:
            return "Q5_K" if self.context.experts == 8 else "IQ3_S" if better == "IQ3_S" else default
        return default

    def _value(self, default: str) -> str:
        """The type of an attention value tensor (or of the fused query, key and value tensor)."""
        index, self.i_attention_wv = self.i_attention_wv, self.i_attention_wv + 1
        if self.context.experts == 8:
            return "Q8_0"
        grouped = self.context.query_groups >= 4
        match self.recipe:
            case "Q2_K":
                return "Q4_K" if grouped else "Q3_K"
            case "IQ3_XXS":
                return "Q4_K" if grouped else default if self.context.has_imatrix else "IQ3_S"
            case "IQ3_S":
                return "Q4_K" if grouped else default
            case "IQ3_M":
                return "Q4_K"
            case "Q3_K_M":
                return "Q5_K" if index < 2 else "Q4_K"
            case "Q3_K_L":
                return "Q5_K"
            case "IQ4_NL" | "IQ4_XS":
                return "Q5_K" if grouped else default
            case "Q4_K_M" | "Q5_K_M":
                return "Q6_K" if _use_more_bits(index, self.n_attention_wv) else default
            case "Q4_K_S":
                return "Q5_K" if index < 4 else default
        return default

    def _down(self, name: str, default: str) -> str:
        """The type of a feed-forward down projection."""
        layers = self.context.layers
        # llama-quantize takes the layer from the name only for a mixture of experts; otherwise it counts calls.
        layer = int(name.split(".")[1]) if self.context.experts > 1 else self.i_ffn_down
        self.i_ffn_down += 1
        first, imatrix = layer < layers // 8, self.context.has_imatrix
        match self.recipe:
            case "Q2_K":
                return "Q3_K"
            case "IQ3_XXS" if not imatrix:
                return "Q4_K" if first else "Q3_K"
            case "Q3_K_M":
                return "Q5_K" if layer < layers // 16 else "Q4_K"
            case "IQ3_M":
                return "Q4_K" if first or (self.context.experts == 8 and _use_more_bits(layer, layers)) else default
            case "Q3_K_L":
                return "Q5_K"
            case "Q4_K_M" | "Q5_K_M":
                return "Q6_K" if _use_more_bits(layer, layers) else default
            case "IQ4_NL" | "IQ4_XS" if not imatrix:
                return "Q5_K" if first else default
            case "Q4_K_S":
                return "Q5_K" if first else default
            case "Q4_0" | "Q5_0" if imatrix:
                return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[self.recipe] if first else default
        return default

    def _attention_output(self, default: str) -> str:
        """The type of an attention output projection."""
        if self.context.experts == 8:
            q5_recipes = "Q2_K IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS".split()
            return "Q5_K" if self.recipe in q5_recipes else default
        exceptions = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
        return exceptions.get(self.recipe, default)


def _use_more_bits(index: int, count: int) -> bool:
    """`use_more_bits` in src/llama-quant.cpp: the first and last eighth of the layers, and every third in between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2
