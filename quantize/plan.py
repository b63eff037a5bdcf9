"""The plan of a conversion: every output file with its header and the place of every tensor, before a weight is read.

A folder and `QuantizeOptions` come in, a frozen `ConversionPlan` goes out. Only config.json, the tokenizer, the
importance matrix and the headers of the shards are read. `convert` does what the plan says; a dry run prints it.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.errors import BadGGUF, BadOption, NeedsImatrix
from quantize.ggml.library import library_version
from quantize.layout import FilePlan, QuantizedTensorSpec, layout_files
from quantize.qwen35.metadata import Provenance, text_header, vision_header
from quantize.qwen35.model_config import ModelConfig, parse_config
from quantize.qwen35.text_tensors import text_tensors
from quantize.qwen35.vision_tensors import vision_tensors
from quantize.recipe.imatrix import Imatrix, ImatrixEntry, read_imatrix
from quantize.recipe.recipes import (
    Override,
    Recipe,
    RecipeContext,
    assign_types,
    choose_vision_type,
    find_recipe,
    needs_imatrix,
    parse_override,
)
from quantize.tensors import CheckpointIndex, OutputTensor


@dataclass(frozen=True)
class QuantizeOptions:
    """What to make. `vision_type` empty means F32 or BF16 as the text, else F16; `split_bytes` 0 means one file."""

    type_name: str = "Q4_K_M"
    overrides: tuple[str, ...] = ()
    imatrix: Path | None = None
    mtp: bool = True
    vision: bool = True
    vision_type: str = ""
    split_bytes: int = 0
    tool_version: str = ""


@dataclass(frozen=True)
class ConversionPlan:
    """A whole conversion. `vision_files` come after `text_files`; equal `fingerprint`s mean equal outputs."""

    checkpoint: Checkpoint
    config: ModelConfig
    recipe: Recipe
    mtp: bool
    text_files: tuple[FilePlan, ...]
    vision_files: tuple[FilePlan, ...]
    fingerprint: str

    @property
    def files(self) -> tuple[FilePlan, ...]:
        """All files to be written."""
        return self.text_files + self.vision_files

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.n_bytes for file in self.files)

    def source_files(self) -> set[Path]:
        """The files that are read for the weights: the shards, and the importance matrix."""
        return {path for file in self.files for planned in file.tensors for path in planned.paths}


@dataclass(frozen=True)
class RecipeSizes:
    """A checkpoint's config, the number of weights of its text model, and their bytes by recipe."""

    config: ModelConfig
    weights: int
    n_bytes: Mapping[str, int]


@dataclass(frozen=True)
class TensorSizes:
    """A checkpoint's config, the bytes of each tensor of its text model by GGUF name, and those of a 16-bit mmproj."""

    config: ModelConfig
    mtp: bool
    n_bytes: Mapping[str, int]
    vision_bytes: int


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A plan is a million small objects, all of them in use: to search them for garbage takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_garbage_collection()
def make_plan(folder: Path, output: Path | None, options: QuantizeOptions) -> ConversionPlan:
    """Plan the conversion of the checkpoint in `folder` to `output`, a file or a folder (default: the current one).

    Raises MissingInput, BadCheckpoint, BadGGUF, BadOption or NeedsImatrix.
    """
    recipe, overrides = find_recipe(options.type_name), [parse_override(text) for text in options.overrides]
    imatrix = read_imatrix(options.imatrix) if options.imatrix else None
    checkpoint = open_checkpoint(folder)
    config = parse_config(checkpoint.config)
    sources = CheckpointIndex(checkpoint, config.fp8_block)
    mtp = options.mtp and sources.has_prefix("mtp.")
    text = text_tensors(config, sources, mtp=mtp)
    vision = vision_tensors(config.vision, sources) if _wants_vision(config, sources, options) and config.vision else []
    sources.skip_prefixes([*([] if mtp else ["mtp."]), *([] if vision else ["visual."])])
    sources.validate()
    output = output_path(output, checkpoint.name, recipe)
    provenance = Provenance(_in_words(recipe, options), options.tool_version)
    typed = _typed(text, recipe, config, overrides, imatrix, mtp=mtp)
    keys = text_header(checkpoint, config, recipe, text, provenance, imatrix, mtp=mtp)
    text_files = layout_files(output, keys, typed, options.split_bytes)
    vision_files = _vision_files(checkpoint, config, vision, recipe, options, output)
    files = text_files + vision_files
    return ConversionPlan(checkpoint, config, recipe, mtp, text_files, vision_files, _fingerprint(files, imatrix))


@_without_garbage_collection()
def recipe_sizes(folder: Path, names: Sequence[str]) -> RecipeSizes:
    """What the checkpoint in `folder` would take in each of these recipes; no weight and no tokenizer is read.

    Recipes that need an importance matrix have none. Raises MissingInput or BadCheckpoint.
    """
    checkpoint = open_checkpoint(folder)
    config = parse_config(checkpoint.config)
    sources = CheckpointIndex(checkpoint, config.fp8_block)
    mtp = sources.has_prefix("mtp.")
    text = text_tensors(config, sources, mtp=mtp)
    sources.skip_prefixes(["visual."])
    sources.validate()
    sizes = {}
    for recipe in map(find_recipe, names):
        with suppress(NeedsImatrix):
            typed = _typed(text, recipe, config, (), None, mtp=mtp)
            sizes[recipe.name] = sum(one.n_bytes for one in typed)
    return RecipeSizes(config, sum(tensor.elements for tensor in text), sizes)


@_without_garbage_collection()
def tensor_sizes(folder: Path, options: QuantizeOptions) -> TensorSizes:
    """The tensors that the checkpoint in `folder` would become with these options; no weight and no tokenizer is read.

    A type that needs an importance matrix may have none here. Raises MissingInput, BadCheckpoint or BadOption.
    """
    recipe, overrides = find_recipe(options.type_name), [parse_override(text) for text in options.overrides]
    checkpoint = open_checkpoint(folder)
    config = parse_config(checkpoint.config)
    sources = CheckpointIndex(checkpoint, config.fp8_block)
    mtp = options.mtp and sources.has_prefix("mtp.")
    text = text_tensors(config, sources, mtp=mtp)
    vision = vision_tensors(config.vision, sources) if _wants_vision(config, sources, options) and config.vision else []
    sources.skip_prefixes(["mtp.", "visual."])
    sources.validate()
    facts = RecipeContext(config.layers + mtp, config.experts, config.query_groups, has_imatrix=True)
    types = assign_types(recipe, {tensor.name: tensor.shape for tensor in text}, facts, overrides)
    sizes = {one.name: types[one.name].row_bytes(one.row_length) * one.rows for one in text}
    return TensorSizes(config, mtp, sizes, sum(2 * tensor.elements for tensor in vision))


def output_path(output: Path | None, model: str, recipe: Recipe) -> Path:
    """The file asked for; by default, and in a folder, one named after model and type."""
    name = f"{model}-{recipe.name}.gguf"
    if output is None:
        return Path(name)
    return output / name if output.is_dir() else output


def _wants_vision(config: ModelConfig, sources: CheckpointIndex, options: QuantizeOptions) -> bool:
    return options.vision and config.vision is not None and sources.has_prefix("visual.")


def _in_words(recipe: Recipe, options: QuantizeOptions) -> str:
    words = [recipe.name, *(f"--tensor-type {text}" for text in options.overrides)]
    return " ".join(words + ([] if options.mtp else ["--no-mtp"]))


def _typed(
    tensors: Sequence[OutputTensor],
    recipe: Recipe,
    config: ModelConfig,
    overrides: Sequence[Override],
    imatrix: Imatrix | None,
    *,
    mtp: bool,
) -> list[QuantizedTensorSpec]:
    """Each tensor with its shape, type and importance."""
    facts = RecipeContext(config.layers + mtp, config.experts, config.query_groups, imatrix is not None)
    types = assign_types(recipe, {tensor.name: tensor.shape for tensor in tensors}, facts, overrides)
    if imatrix and not types.keys() & imatrix.importance.keys():
        raise _other_model(imatrix, "it covers none of the tensors")
    known = imatrix.importance if imatrix else {}
    lacking = [name for name, kind in types.items() if needs_imatrix(name, kind) and name not in known]
    if lacking:
        raise _lacks_imatrix(recipe, lacking, imatrix)
    float_recipe = recipe.name in ("F32", "F16", "BF16")
    typed = []
    for tensor in tensors:
        # llama-quantize drops trailing dimensions of 1, the converter keeps them.
        shape = tensor.shape if float_recipe or tensor.shape[-1] != 1 else tensor.shape[:-1]
        typed.append(QuantizedTensorSpec(tensor, shape, types[tensor.name], _importance(tensor, imatrix)))
    return typed


def _importance(tensor: OutputTensor, imatrix: Imatrix | None) -> ImatrixEntry | None:
    """What is known of the tensor's columns. llama-quantize forgives a misfit for the embeddings, and so do we."""
    known = imatrix.importance.get(tensor.name) if imatrix else None
    if imatrix is None or known is None:
        return None
    needed = (tensor.rows // tensor.matrix_rows, tensor.row_length)
    if known.sums.shape == needed:
        return known
    if tensor.name == "token_embd.weight":
        return None
    raise _other_model(imatrix, f"{list(known.sums.shape)} values for {tensor.name}, {list(needed)} needed")


def _other_model(imatrix: Imatrix, why: str) -> BadGGUF:
    return BadGGUF(f"{imatrix.path.name} was made for another model: {why}", "make one with llama-imatrix")


def _lacks_imatrix(recipe: Recipe, lacking: list[str], imatrix: Imatrix | None) -> NeedsImatrix:
    if imatrix is None:
        return NeedsImatrix(
            f"{recipe.name} needs an importance matrix ({len(lacking)} tensors, the first is {lacking[0]})",
            "--imatrix FILE (made with llama-imatrix), or a quantization that needs none: IQ4_XS, Q3_K_M, Q2_K",
        )
    blocks = sorted({name.split(".")[1] for name in lacking if name.startswith("blk.")}, key=int)
    named = lacking if len(lacking) <= 3 else [*lacking[:3], f"{len(lacking) - 3} more"]
    pattern = rf"^blk\.{blocks[0]}\." if len(blocks) == 1 else rf"^blk\.({'|'.join(blocks)})\."
    return NeedsImatrix(
        f"{imatrix.path.name} has no data for {', '.join(named)}, which {recipe.name} requires",
        f"--tensor-type '{pattern}=q4_k' gives these blocks a type that needs none",
    )


def _vision_files(
    checkpoint: Checkpoint,
    config: ModelConfig,
    tensors: Sequence[OutputTensor],
    recipe: Recipe,
    options: QuantizeOptions,
    output: Path,
) -> tuple[FilePlan, ...]:
    """The mmproj file beside `output`, if there are tensors for it."""
    if not tensors or config.vision is None:
        return ()
    vision_recipe = find_recipe(options.vision_type or (recipe.name if recipe.name in ("F32", "BF16") else "F16"))
    if vision_recipe.name not in ("F32", "F16", "BF16"):
        raise BadOption(f"the vision encoder cannot be {vision_recipe.name}", "--vision-type f16, bf16 or f32")
    provenance = Provenance(vision_recipe.name, options.tool_version)
    header = vision_header(checkpoint, config, config.vision, vision_recipe, tensors, provenance)
    typed = [
        QuantizedTensorSpec(tensor, tensor.shape, choose_vision_type(vision_recipe, tensor.name, tensor.shape), None)
        for tensor in tensors
    ]
    return layout_files(output.with_name(f"mmproj-{checkpoint.name}-{vision_recipe.name}.gguf"), header, typed, 0)


def _fingerprint(files: Sequence[FilePlan], imatrix: Imatrix | None) -> str:
    """Changes when anything changes on which a byte of the output depends."""
    digest = hashlib.sha256(f"{library_version()} {imatrix.sha256 if imatrix else ''}".encode())
    for file in files:
        digest.update(f"\n{file.path.name} {file.n_bytes} ".encode() + hashlib.sha256(file.header).digest())
    shards = {run.source.path for file in files for planned in file.tensors for run in planned.tensor.runs}
    for path in sorted(shards):
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
