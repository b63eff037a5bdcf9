"""Plan a conversion: every output file with its header and the offset of every tensor, before a weight is read.

A folder and `QuantizeOptions` come in, a frozen `ConversionPlan` goes out. Only config.json, the tokenizer, the
importance matrix and the headers of the shards are read. `convert` executes the plan; a dry run prints it.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from quantize.checkpoint import Checkpoint, list_names, open_checkpoint
from quantize.errors import BadGGUF, BadOption, NeedsImatrix
from quantize.file_system import FileVersion, file_version
from quantize.ggml.library import library_version
from quantize.layout import FilePlan, QuantizedTensorSpec, layout_files
from quantize.qwen35.foreign_formats import check_format
from quantize.qwen35.metadata import Provenance, text_metadata, vision_metadata
from quantize.qwen35.model_config import ModelConfig, find_architecture, parse_config
from quantize.qwen35.text_tensors import text_tensors
from quantize.qwen35.vision_tensors import vision_tensors
from quantize.qwen35.vocabulary import read_vocabulary
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
    """What to produce.

    An empty `vision_type` means F32 or BF16 if the text model has that type, and F16 otherwise. `split_bytes` is the
    maximum file size in bytes; 0 means a single file.
    """

    type_name: str = "Q4_K_M"  # a recipe
    overrides: tuple[str, ...] = ()  # PATTERN=TYPE each
    imatrix: Path | None = None
    mtp: bool = True
    vision: bool = True
    vision_type: str = ""
    split_bytes: int = 0
    tool_version: str = ""  # recorded in the metadata


@dataclass(frozen=True)
class ConversionPlan:
    """A complete conversion. `vision_files` come after `text_files`; equal `fingerprint`s mean equal outputs."""

    checkpoint: Checkpoint
    config: ModelConfig
    recipe: Recipe
    mtp: bool
    text_files: tuple[FilePlan, ...]
    vision_files: tuple[FilePlan, ...]
    fingerprint: str
    versions: Mapping[Path, FileVersion] = field(default_factory=dict)  # of the source files when they were planned
    notes: tuple[str, ...] = ()  # what is left out of the files or decided against a part of the checkpoint

    @property
    def files(self) -> tuple[FilePlan, ...]:
        """All output files."""
        return self.text_files + self.vision_files

    @property
    def n_bytes(self) -> int:
        """Size of all output files in bytes."""
        return sum(file.n_bytes for file in self.files)

    def source_files(self) -> set[Path]:
        """The files that `convert` reads: the shards and, if used, the importance matrix."""
        return {path for file in self.files for tensor_plan in file.tensors for path in tensor_plan.source_paths}


@dataclass(frozen=True)
class RecipeSizes:
    """A checkpoint's config, the number of weights of its text model, and their size in bytes by recipe name."""

    config: ModelConfig
    weights: int
    n_bytes: Mapping[str, int]


@dataclass(frozen=True)
class TensorSizes:
    """A checkpoint's config and tensor sizes.

    `n_bytes` has the size of each text tensor by GGUF name; `vision_bytes` is the size of a 16-bit mmproj.
    """

    config: ModelConfig
    mtp: bool
    n_bytes: Mapping[str, int]
    vision_bytes: int


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause garbage collection: a plan is a million live objects, and scanning them takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_garbage_collection()
def make_plan(
    folder: Path, output: Path | None, options: QuantizeOptions, *, headers_only: bool = False
) -> ConversionPlan:
    """Plan the conversion of the checkpoint in `folder` to `output`, a file or folder (default: the current folder).

    With `headers_only`, the weights of the shards are not there yet, so that no two tensors can be compared.
    Raises MissingInput, BadCheckpoint, BadGGUF, BadOption or NeedsImatrix.
    """
    recipe, overrides = find_recipe(options.type_name, "--type"), [parse_override(text) for text in options.overrides]
    imatrix = read_imatrix(options.imatrix) if options.imatrix else None
    source = _read_source(folder, mtp=options.mtp, vision=options.vision, headers_only=headers_only)
    checkpoint, config, mtp, text, vision, notes = source
    vocabulary = read_vocabulary(folder, config.vocabulary)
    output = output_path(output, checkpoint.name, recipe)
    provenance = Provenance(_describe_recipe(recipe, options), options.tool_version)
    specs = _tensor_specs(text, recipe, config, overrides, imatrix, mtp=mtp)
    keys = text_metadata(checkpoint, config, recipe, text, provenance, imatrix, vocabulary, mtp=mtp)
    text_files = layout_files(output, keys, specs, options.split_bytes)
    vision_files = _plan_vision_files(checkpoint, config, vision, recipe, options, output)
    files = text_files + vision_files
    versions = _file_versions(files)
    return ConversionPlan(
        checkpoint,
        config,
        recipe,
        mtp,
        text_files,
        vision_files,
        _fingerprint(files, imatrix, versions),
        versions,
        notes + vocabulary.notes,
    )


@_without_garbage_collection()
def compute_recipe_sizes(folder: Path, names: Sequence[str]) -> RecipeSizes:
    """Compute the size of the checkpoint in `folder` for each recipe; no weights or tokenizer files are read.

    Recipes that need an importance matrix are left out. Raises MissingInput or BadCheckpoint.
    """
    _, config, mtp, text, _, _ = _read_source(folder, mtp=True, vision=False, headers_only=True)
    sizes = {}
    for recipe in map(find_recipe, names):
        with suppress(NeedsImatrix):  # the recipe cannot be offered
            specs = _tensor_specs(text, recipe, config, (), None, mtp=mtp)
            sizes[recipe.name] = sum(spec.n_bytes for spec in specs)
    return RecipeSizes(config, sum(tensor.elements for tensor in text), sizes)


@_without_garbage_collection()
def compute_tensor_sizes(folder: Path, options: QuantizeOptions) -> TensorSizes:
    """Compute the output tensor sizes for the checkpoint in `folder`; no weights or tokenizer files are read.

    Types that need an importance matrix are allowed without one. Raises MissingInput, BadCheckpoint or BadOption.
    """
    recipe, overrides = find_recipe(options.type_name, "--type"), [parse_override(text) for text in options.overrides]
    source = _read_source(folder, mtp=options.mtp, vision=options.vision, headers_only=True)
    _, config, mtp, text, vision, _ = source
    context = RecipeContext(config.layers + mtp, config.experts, config.query_groups, has_imatrix=True)
    types = assign_types(recipe, {tensor.name: tensor.shape for tensor in text}, context, overrides)
    sizes = {tensor.name: types[tensor.name].row_bytes(tensor.row_length) * tensor.rows for tensor in text}
    return TensorSizes(config, mtp, sizes, sum(2 * tensor.elements for tensor in vision))


def output_path(output: Path | None, model: str, recipe: Recipe) -> Path:
    """The output file: `output` itself, or, if it is None or a folder, a file named after model and recipe."""
    name = f"{model}-{recipe.name}.gguf"
    if output is None:
        return Path(name)
    return output / name if output.is_dir() else output


class _Source(NamedTuple):
    """A checkpoint, and the tensors to make of it: `vision` is empty and `mtp` False where that part is left out."""

    checkpoint: Checkpoint
    config: ModelConfig
    mtp: bool
    text: list[OutputTensor]
    vision: list[OutputTensor]
    notes: tuple[str, ...]


def _read_source(folder: Path, *, mtp: bool, vision: bool, headers_only: bool) -> _Source:
    """Read the checkpoint in `folder`, with the MTP block and the vision encoder if it has them and they are wanted.

    Raises MissingInput or BadCheckpoint.
    """
    checkpoint = open_checkpoint(folder, headers_only=headers_only)
    find_architecture(checkpoint.config)  # another model's name helps more than its format
    check_format(checkpoint)
    config = parse_config(checkpoint.config)
    index = CheckpointIndex(checkpoint, config.fp8_block, headers_only=headers_only)
    has_mtp = index.has_prefix("mtp.")
    text = text_tensors(config, index, mtp=mtp and has_mtp)
    wants_vision = vision and config.vision is not None and index.has_prefix("visual.")
    encoder = vision_tensors(config.vision, index) if wants_vision and config.vision else []
    # Tensors that are left out on request must not be reported as unknown.
    skipped = index.skip_prefixes([*([] if mtp else ["mtp."]), *([] if encoder else ["visual."])])
    index.validate()
    notes = [*checkpoint.notes, *index.notes]
    unexplained = [name for name in skipped if name.startswith("visual.")] if vision else []
    if unexplained:
        notes.append(f"left out: {list_names(unexplained)}: config.json describes no vision encoder")
    if mtp and config.promises_mtp and not has_mtp:
        notes.append("config.json promises an MTP block, which the checkpoint does not have: made without")
    if vision and config.vision is not None and not encoder:
        notes.append("config.json promises a vision encoder, which the checkpoint does not have: made without")
    return _Source(checkpoint, config, mtp and has_mtp, text, encoder, tuple(notes))


def _describe_recipe(recipe: Recipe, options: QuantizeOptions) -> str:
    """The recipe and its options as text, for the metadata of the file."""
    args = [recipe.name, *(f"--tensor-type {text}" for text in options.overrides)]
    return " ".join(args + ([] if options.mtp else ["--no-mtp"]))


def _tensor_specs(
    tensors: Sequence[OutputTensor],
    recipe: Recipe,
    config: ModelConfig,
    overrides: Sequence[Override],
    imatrix: Imatrix | None,
    *,
    mtp: bool,
) -> list[QuantizedTensorSpec]:
    """Combine each tensor with its GGUF shape, ggml type and importance. Raises BadGGUF, BadOption, NeedsImatrix."""
    context = RecipeContext(config.layers + mtp, config.experts, config.query_groups, imatrix is not None)
    types = assign_types(recipe, {tensor.name: tensor.shape for tensor in tensors}, context, overrides)
    if imatrix and not types.keys() & imatrix.entries.keys():
        raise _other_model_error(imatrix, "it covers none of the tensors")
    entries = imatrix.entries if imatrix else {}
    missing = [name for name, ggml_type in types.items() if needs_imatrix(name, ggml_type) and name not in entries]
    if missing:
        raise _missing_imatrix_error(recipe, missing, imatrix)
    float_recipe = recipe.name in ("F32", "F16", "BF16")
    specs = []
    for tensor in tensors:
        # llama-quantize drops trailing dimensions of 1; llama.cpp's converter keeps them.
        shape = tensor.shape if float_recipe or tensor.shape[-1] != 1 else tensor.shape[:-1]
        specs.append(QuantizedTensorSpec(tensor, shape, types[tensor.name], _find_importance(tensor, imatrix)))
    return specs


def _find_importance(tensor: OutputTensor, imatrix: Imatrix | None) -> ImatrixEntry | None:
    """The imatrix entry of a tensor, if any. Raises BadGGUF if its shape does not match.

    Like llama-quantize, a mismatch of the embeddings is ignored.
    """
    entry = imatrix.entries.get(tensor.name) if imatrix else None
    if imatrix is None or entry is None:
        return None
    expected_shape = (tensor.rows // tensor.matrix_rows, tensor.row_length)
    entry = entry.reshaped(expected_shape)
    if entry.sums.shape == expected_shape:
        return entry
    if tensor.name == "token_embd.weight":
        return None
    raise _other_model_error(
        imatrix, f"{list(entry.sums.shape)} values for {tensor.name}, {list(expected_shape)} needed"
    )


def _other_model_error(imatrix: Imatrix, reason: str) -> BadGGUF:
    """The error for an importance matrix that does not fit the checkpoint."""
    return BadGGUF(f"{imatrix.path.name} was made for another model: {reason}", "make one with llama-imatrix")


def _missing_imatrix_error(recipe: Recipe, missing: list[str], imatrix: Imatrix | None) -> NeedsImatrix:
    """The error for tensors whose type needs an importance matrix that is missing or lacks their data."""
    if imatrix is None:
        return NeedsImatrix(
            f"{recipe.name} needs an importance matrix ({len(missing)} tensors, the first is {missing[0]})",
            "--imatrix FILE (made with llama-imatrix), or a quantization that needs none: IQ4_XS, Q3_K_M, Q2_K",
        )
    # The hint overrides the type of exactly those blocks for which the matrix has no data.
    blocks = sorted({name.split(".")[1] for name in missing if name.startswith("blk.")}, key=int)
    listed = missing if len(missing) <= 3 else [*missing[:3], f"{len(missing) - 3} more"]
    pattern = rf"^blk\.{blocks[0]}\." if len(blocks) == 1 else rf"^blk\.({'|'.join(blocks)})\."
    return NeedsImatrix(
        f"{imatrix.path.name} has no data for {', '.join(listed)}, which {recipe.name} requires",
        f"--tensor-type '{pattern}=q4_k' gives these blocks a type that needs none",
    )


def _plan_vision_files(
    checkpoint: Checkpoint,
    config: ModelConfig,
    tensors: Sequence[OutputTensor],
    recipe: Recipe,
    options: QuantizeOptions,
    output: Path,
) -> tuple[FilePlan, ...]:
    """Plan the mmproj file next to `output`; empty if there are no vision tensors. Raises BadOption."""
    if not tensors or config.vision is None:
        return ()
    vision_type = options.vision_type or (recipe.name if recipe.name in ("F32", "BF16") else "F16")
    vision_recipe = find_recipe(vision_type, "--vision-type")
    if vision_recipe.name not in ("F32", "F16", "BF16"):
        raise BadOption(f"--vision-type {vision_recipe.name}: the vision encoder cannot be that", "f16, bf16 or f32")
    provenance = Provenance(vision_recipe.name, options.tool_version)
    header = vision_metadata(checkpoint, config, config.vision, vision_recipe, tensors, provenance)
    specs = [
        QuantizedTensorSpec(tensor, tensor.shape, choose_vision_type(vision_recipe, tensor.name, tensor.shape), None)
        for tensor in tensors
    ]
    return layout_files(output.with_name(f"mmproj-{checkpoint.name}-{vision_recipe.name}.gguf"), header, specs, 0)


def _file_versions(files: Sequence[FilePlan]) -> dict[Path, FileVersion]:
    """What identifies the content of each source file now."""
    paths = {path for file in files for tensor_plan in file.tensors for path in tensor_plan.source_paths}
    return {path: file_version(path.stat()) for path in sorted(paths)}


def _fingerprint(files: Sequence[FilePlan], imatrix: Imatrix | None, versions: Mapping[Path, FileVersion]) -> str:
    """A hash of everything the output bytes depend on: ggml version, imatrix, headers, and size and mtime of shards."""
    digest = hashlib.sha256(f"{library_version()} {imatrix.sha256 if imatrix else ''}".encode())
    for file in files:
        digest.update(os.fsencode(f"\n{file.path.name} {file.n_bytes} ") + hashlib.sha256(file.header).digest())
    # Size and mtime stand for the content of the shards: hashing them would take as long as reading them all.
    for path, (size, changed_ns) in sorted(versions.items()):
        if imatrix is None or path != imatrix.path:
            digest.update(os.fsencode(f"\n{path.name} {size} {changed_ns}"))
    return digest.hexdigest()
