"""Map the checkpoint tensors of the Qwen3.5 vision encoder to the tensors of the mmproj file.

`VisionConfig` and `CheckpointIndex` come in, a list of `OutputTensor` goes out. Names and shapes are those of
llama.cpp's converter (`conversion/qwen3vl.py`). The only transform splits the patch embedding into its two frames.
"""

from __future__ import annotations

from collections.abc import Iterator

from quantize.errors import BadCheckpoint
from quantize.qwen35.model_config import VisionConfig
from quantize.tensors import CheckpointIndex, OutputTensor, single_range_tensor, split_range


def vision_tensors(config: VisionConfig, index: CheckpointIndex) -> list[OutputTensor]:
    """All tensors of the mmproj file. Problems are collected in `index`; its `validate` raises them.

    Raises BadCheckpoint if the patch embedding does not have two frames.
    """
    hidden, merged = config.hidden, config.hidden * config.merge**2
    tensors = list(_patch_embedding(config, index))
    position = index.row_range("visual.pos_embed.weight", (config.position_embeddings, hidden))
    tensors.append(single_range_tensor("v.position_embd.weight", (hidden, config.position_embeddings), position))
    for block in range(config.depth):
        source, name = f"visual.blocks.{block}", f"v.blk.{block}"
        tensors += _weight_and_bias(index, f"{source}.norm1", f"{name}.ln1", hidden)
        tensors += _weight_and_bias(index, f"{source}.norm2", f"{name}.ln2", hidden)
        tensors += _weight_and_bias(index, f"{source}.attn.qkv", f"{name}.attn_qkv", 3 * hidden, hidden)
        tensors += _weight_and_bias(index, f"{source}.attn.proj", f"{name}.attn_out", hidden, hidden)
        tensors += _weight_and_bias(index, f"{source}.mlp.linear_fc1", f"{name}.ffn_up", config.feed_forward, hidden)
        tensors += _weight_and_bias(index, f"{source}.mlp.linear_fc2", f"{name}.ffn_down", hidden, config.feed_forward)
    tensors += _weight_and_bias(index, "visual.merger.norm", "v.post_ln", hidden)
    tensors += _weight_and_bias(index, "visual.merger.linear_fc1", "mm.0", merged, merged)
    tensors += _weight_and_bias(index, "visual.merger.linear_fc2", "mm.2", config.output, merged)
    return tensors


def _weight_and_bias(
    index: CheckpointIndex, source: str, name: str, rows: int, columns: int = 0
) -> Iterator[OutputTensor]:
    """A weight and its bias; without `columns` the weight is a vector (of a layer norm)."""
    shape = (rows, columns) if columns else (rows,)
    yield single_range_tensor(f"{name}.weight", shape[::-1], index.row_range(f"{source}.weight", shape))
    yield single_range_tensor(f"{name}.bias", (rows,), index.row_range(f"{source}.bias", (rows,)))


def _patch_embedding(config: VisionConfig, index: CheckpointIndex) -> Iterator[OutputTensor]:
    """Split the convolution [O, C, 2, P, P] into one [O, C, P, P] per frame; libmtmd adds their results."""
    if config.temporal_patch != 2:
        raise BadCheckpoint(f"temporal_patch_size is {config.temporal_patch}; llama.cpp supports only 2")
    pixels, frames = config.patch**2, config.temporal_patch
    source, planes = "visual.patch_embed.proj", config.hidden * config.channels
    shape = (config.hidden, config.channels, frames, config.patch, config.patch)
    row_range = index.row_range(f"{source}.weight", shape, row_length=pixels)
    # A row is one P x P plane, and the two frames of a plane are adjacent: each frame takes every second row.
    for frame, name in ((0, "v.patch_embd.weight"), (1, "v.patch_embd.weight.1")):
        ranges = tuple(split_range(row_range, plane * frames + frame, 1) for plane in range(planes))
        yield OutputTensor(name, (config.patch, config.patch, config.channels, config.hidden), ranges, pixels)
    yield single_range_tensor(
        "v.patch_embd.bias", (config.hidden,), index.row_range(f"{source}.bias", (config.hidden,))
    )
