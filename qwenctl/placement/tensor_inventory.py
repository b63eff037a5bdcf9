"""What must be placed: every tensor of a model with its bytes, class and layer, and the model's dimensions.

The header of a GGUF file and its splits, or a checkpoint with its target types, comes in; a frozen `TensorInventory`
goes out. No weights are read. Classes are those of `quantize.recipe.tensor_classes`, except that routed experts of the
MTP block count as routed experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from quantize.errors import QuantizeError
from quantize.gguf_header import read_header
from quantize.recipe.tensor_classes import MTP, ROUTED_EXPERTS, tensor_class
from qwenctl.errors import ExitCode, QwenctlError, from_quantize
from qwenctl.models.context_memory import metadata_number, state_values
from qwenctl.models.gguf_check import ARCHITECTURES, split_files
from qwenctl.models.mtp_block import find_incomplete_mtp

if TYPE_CHECKING:
    from quantize.plan import QuantizeOptions

TOKEN_EMBEDDINGS, OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class ModelDims:
    """The dimensions of a model.

    `full_layers` are the layers with full attention, without the MTP block; the others are recurrent. `state` is the
    number of 32-bit values in one recurrent layer's state, `linear_inner` the channels of its values and `linear_keys`
    those of its keys. `blocks` includes the MTP block. `width` is the inner width of an expert, in a dense model that
    of the feed-forward network.
    """

    blocks: int
    mtp_blocks: int
    full_layers: tuple[int, ...]
    hidden: int
    kv_heads: int
    heads: int
    head_dim: int
    experts: int
    experts_used: int
    width: int
    state: int
    linear_inner: int
    linear_keys: int
    vocabulary: int
    context: int

    @property
    def layers(self) -> int:
        """The number of layers, without the MTP block."""
        return self.blocks - self.mtp_blocks


@dataclass(frozen=True)
class TensorEntry:
    """A tensor; `layer` is its block, -1 before the first block, and the number of blocks after the last one."""

    name: str
    n_bytes: int
    tensor_class: str
    layer: int

    @property
    def is_expert(self) -> bool:
        """Whether it holds routed experts of a layer."""
        return self.tensor_class == ROUTED_EXPERTS


@dataclass(frozen=True)
class TensorInventory:
    """A model's tensors, with its vision encoder as one number of bytes; `path` is "" if there is no local file."""

    name: str
    shape: ModelDims
    tensors: tuple[TensorEntry, ...]
    vision_bytes: int = 0
    path: str = ""

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of all tensors of the text model."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @cached_property
    def has_mtp(self) -> bool:
        """Whether there is an MTP block to draft with."""
        return any(map(self.is_mtp, self.tensors))

    @cached_property
    def largest_bytes(self) -> int:
        """Bytes of the largest tensor of a layer."""
        return max((tensor.n_bytes for tensor in self.tensors if 0 <= tensor.layer < self.shape.blocks), default=0)

    @property
    def is_tied(self) -> bool:
        """Whether the embeddings also serve as the output; a device then gets a copy of them."""
        return not any(tensor.name == OUTPUT for tensor in self.tensors)

    def is_mtp(self, tensor: TensorEntry) -> bool:
        """Whether a tensor belongs to the MTP block."""
        return self.shape.layers <= tensor.layer < self.shape.blocks

    def token_fraction(self, tensor: TensorEntry) -> float:
        """The fraction of a tensor that is read per token: of experts the used ones, of the embeddings one row."""
        if tensor.is_expert:
            return self.shape.experts_used / self.shape.experts
        return 1 / self.shape.vocabulary if tensor.name == TOKEN_EMBEDDINGS else 1.0


def from_gguf(path: Path) -> TensorInventory:
    """The inventory of a GGUF file and its splits. Raises QwenctlError."""
    try:
        headers = [read_header(file) for file in split_files(path)]
    except QuantizeError as error:
        raise from_quantize(error) from error
    infos = {info.name: info for header in headers for info in header.tensors}
    shapes = {name: info.shape for name, info in infos.items()}
    vocabulary = shapes[TOKEN_EMBEDDINGS][-1] if TOKEN_EMBEDDINGS in shapes else 1
    block = find_incomplete_mtp(headers[0].metadata, shapes)
    # What is there of an incomplete MTP block is not loaded.
    sizes = {name: info.n_bytes for name, info in infos.items() if block is None or _layer_number(name) < block.block}
    shape = _dims_from_metadata(path.name, headers[0].metadata, sizes, vocabulary)
    return TensorInventory(path.stem, shape, _tensors(sizes, shape), path=str(path))


def from_checkpoint(folder: Path, options: QuantizeOptions) -> TensorInventory:
    """The inventory of the GGUF file that the checkpoint in `folder` would become. Raises QwenctlError."""
    from quantize.plan import compute_tensor_sizes  # numpy and gguf take a while to load

    try:
        sizes = compute_tensor_sizes(folder, options)
    except QuantizeError as error:
        raise from_quantize(error) from error
    config, mtp = sizes.config, int(sizes.mtp)
    shape = ModelDims(
        blocks=config.layers + mtp,
        mtp_blocks=mtp,
        full_layers=tuple(number for number, linear in enumerate(config.linear_layers) if not linear),
        hidden=config.hidden,
        kv_heads=config.kv_heads,
        heads=config.attention_heads,
        head_dim=config.head_dim,
        experts=config.experts,
        experts_used=config.experts_used,
        width=config.expert_feed_forward if config.experts else config.feed_forward,
        state=state_values(config.conv_kernel, config.value_channels, config.linear_key_heads, config.linear_key_dim),
        linear_inner=config.value_channels,
        linear_keys=config.key_channels,
        vocabulary=config.vocabulary,
        context=config.context,
    )
    name = f"{folder.name}-{options.type_name.upper()}"
    return TensorInventory(name, shape, _tensors(sizes.n_bytes, shape), sizes.vision_bytes)


def _tensors(sizes: Mapping[str, int], shape: ModelDims) -> tuple[TensorEntry, ...]:
    return tuple(
        TensorEntry(name, n_bytes, _tensor_class(name, shape), _layer(name, shape)) for name, n_bytes in sizes.items()
    )


def _tensor_class(name: str, shape: ModelDims) -> str:
    kind = tensor_class(name, shape.layers)
    return ROUTED_EXPERTS if kind == MTP and "_exps." in name else kind


def _layer_number(name: str) -> int:
    """The number of the block that a tensor belongs to; -1 for tensors outside of blocks."""
    number = name.split(".", 2)[1] if name.startswith("blk.") else ""
    return int(number) if number.isdecimal() else -1


def _layer(name: str, shape: ModelDims) -> int:
    if name.startswith("blk."):
        return _layer_number(name)
    return -1 if name == TOKEN_EMBEDDINGS else shape.blocks


def _dims_from_metadata(file: str, metadata: Mapping[str, object], names: Iterable[str], vocabulary: int) -> ModelDims:
    architecture = str(metadata.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        hint = "Qwen3.5 models are qwen35 and qwen35moe"
        raise QwenctlError(f"{file}: architecture {architecture!r} is not Qwen3.5", hint, ExitCode.BAD_DATA)

    number = partial(metadata_number, metadata)
    try:
        blocks, mtp = number("block_count"), number("nextn_predict_layers", 0)
        inner, groups, state = number("ssm.inner_size"), number("ssm.group_count"), number("ssm.state_size")
        tensor_names = set(names)
        return ModelDims(
            blocks=blocks,
            mtp_blocks=min(mtp, blocks),
            full_layers=tuple(layer for layer in range(blocks - mtp) if f"blk.{layer}.attn_k.weight" in tensor_names),
            hidden=number("embedding_length"),
            kv_heads=number("attention.head_count_kv"),
            heads=number("attention.head_count"),
            head_dim=number("attention.key_length"),
            experts=number("expert_count", 0),
            experts_used=number("expert_used_count", 0),
            width=number("expert_feed_forward_length", 0) or number("feed_forward_length", 0),
            state=state_values(number("ssm.conv_kernel"), inner, groups, state),
            linear_inner=inner,
            linear_keys=groups * state,
            vocabulary=vocabulary,
            context=number("context_length", 0),
        )
    except ValueError as error:
        hint = "the file is damaged: get it from its publisher again"
        raise QwenctlError(f"{file}: {error}", hint, ExitCode.BAD_DATA) from error
