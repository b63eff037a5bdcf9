"""Build the key/value part of the GGUF headers: model, tokenizer, vision encoder, provenance.

A checkpoint and its `ModelConfig` come in; the serialized keys go out as `MetadataBytes`. Given the tensors of a file,
`build_header` returns its complete header. Keys, types and values are those of llama.cpp's converter
(`conversion/qwen.py`, `conversion/qwen3vl.py`); the keys under `qwenctl.` record where the file comes from.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import gguf
import numpy as np

from quantize.checkpoint import Checkpoint, read_json
from quantize.errors import BadCheckpoint
from quantize.ggml.types import GGMLType
from quantize.qwen35.model_config import ModelConfig, VisionConfig
from quantize.qwen35.rope import Rope
from quantize.qwen35.vocabulary import Vocabulary, add_vocabulary
from quantize.recipe.imatrix import Imatrix
from quantize.recipe.recipes import Recipe
from quantize.tensors import OutputTensor

ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT


@dataclass(frozen=True)
class Provenance:
    """How a file was made: the `recipe` as text (type, overrides, options) and the `version` of the tool."""

    recipe: str
    version: str


@dataclass(frozen=True)
class MetadataBytes:
    """The serialized key/value part of a header: `data` holds `count` keys."""

    count: int
    data: bytes


def text_metadata(
    checkpoint: Checkpoint,
    config: ModelConfig,
    recipe: Recipe,
    tensors: Iterable[OutputTensor],
    provenance: Provenance,
    imatrix: Imatrix | None,
    vocabulary: Vocabulary,
    *,
    mtp: bool,
) -> MetadataBytes:
    """Build the keys of the text model's file. Raises BadCheckpoint if a value cannot be written."""
    writer = _new_writer(config.architecture)
    _add_general(writer, checkpoint, recipe, tensors, "model", provenance)
    _add_sizes(writer, config, mtp=mtp)
    _add_linear_attention(writer, config, mtp=mtp)
    add_vocabulary(writer, vocabulary)
    if imatrix:
        _add_imatrix(writer, imatrix)
    return _pack_keys(writer)


def vision_metadata(
    checkpoint: Checkpoint,
    config: ModelConfig,
    vision: VisionConfig,
    recipe: Recipe,
    tensors: Iterable[OutputTensor],
    provenance: Provenance,
) -> MetadataBytes:
    """Build the keys of the mmproj file. Raises BadCheckpoint for a bad preprocessor_config.json."""
    writer = _new_writer("clip")
    _add_general(writer, checkpoint, recipe, tensors, "mmproj", provenance)
    preprocessor = _read_optional_json(checkpoint, "preprocessor_config.json")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN3VL)
    writer.add_vision_use_gelu(True)
    writer.add_vision_projection_dim(config.hidden)
    # The position grid is square: its side in patches, times the patch size, is the image size in pixels.
    writer.add_vision_image_size(int(vision.position_embeddings**0.5 * vision.patch))
    writer.add_vision_patch_size(vision.patch)
    writer.add_vision_embedding_length(vision.hidden)
    writer.add_vision_feed_forward_length(vision.feed_forward)
    writer.add_vision_block_count(vision.depth)
    writer.add_vision_head_count(vision.heads)
    writer.add_vision_image_mean(preprocessor.get("image_mean", [0.5, 0.5, 0.5]))
    writer.add_vision_image_std(preprocessor.get("image_std", [0.5, 0.5, 0.5]))
    writer.add_vision_spatial_merge_size(vision.merge)
    writer.add_vision_attention_layernorm_eps(config.norm_epsilon)
    writer.add_vision_is_deepstack_layers([False] * vision.depth)
    return _pack_keys(writer)


def build_header(
    keys: MetadataBytes,
    tensors: Iterable[tuple[OutputTensor, tuple[int, ...], GGMLType, int]],
    split: tuple[int, int, int],
) -> bytes:
    """Build a complete GGUF header, padded to the start of the data section.

    `tensors` holds (tensor, GGUF shape, ggml type, size in bytes). `split` is (index of this file, number of files,
    number of tensors in all files). By llama.cpp's convention only the first split contains the keys.
    """
    number, files, n_tensors = split
    count, data = (keys.count, keys.data) if number == 0 else (0, b"")
    # Without an architecture the writer starts with no keys at all; it serializes the tensor infos and the split keys.
    writer, infos = _new_writer(""), list(tensors)
    for tensor, shape, ggml_type, n_bytes in infos:
        # The writer expects row-major shapes. np.float32 only means that the shape is in weights, not bytes; the last
        # argument is the real type.
        writer.add_tensor_info(
            tensor.name, shape[::-1], np.dtype(np.float32), n_bytes, gguf.GGMLQuantizationType(ggml_type.id)
        )
    if files > 1:
        writer.add_uint16(gguf.Keys.Split.LLM_KV_SPLIT_NO, number)
        writer.add_uint16(gguf.Keys.Split.LLM_KV_SPLIT_COUNT, files)
        writer.add_int32(gguf.Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT, n_tensors)
    split_keys = _pack_keys(writer)
    start = struct.pack("<4sIQQ", b"GGUF", gguf.GGUF_VERSION, len(infos), count + split_keys.count)
    header = start + data + split_keys.data + _capture(writer, writer.write_ti_data_to_file)
    return header + bytes(-len(header) % ALIGNMENT)


def _pack_keys(writer: gguf.GGUFWriter) -> MetadataBytes:
    """Serialize the keys added to `writer`. Raises BadCheckpoint if a value does not fit its type."""
    # The writer wants to have written the start of a file first; here only its key/value part is needed.
    writer.state = gguf.gguf_writer.WriterState.HEADER
    try:
        return MetadataBytes(len(writer.kv_data[0]), _capture(writer, writer.write_kv_data_to_file))
    except (struct.error, OverflowError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"a metadata value cannot be written: {error}", "download the JSON files again") from error


def _capture(writer: gguf.GGUFWriter, write: Callable[[], None]) -> bytes:
    """Return the bytes that `write`, a method of `writer`, writes to its file."""
    buffer = io.BytesIO()
    writer.fout = [buffer]  # type: ignore[list-item]  # it only writes and flushes, which any binary stream can
    write()
    return buffer.getvalue()


def _new_writer(architecture: str) -> gguf.GGUFWriter:
    logging.getLogger("gguf").setLevel(logging.ERROR)  # it logs the byte order of each file
    return gguf.GGUFWriter(None, architecture)


def _add_general(
    writer: gguf.GGUFWriter,
    checkpoint: Checkpoint,
    recipe: Recipe,
    tensors: Iterable[OutputTensor],
    file_type: str,
    provenance: Provenance,
) -> None:
    """Add name, size, file type, recommended sampling, and provenance."""
    writer.add_type(file_type)
    writer.add_name(checkpoint.name)
    writer.add_size_label(_size_label(tensors))
    writer.add_file_type(recipe.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    generation_config = _read_optional_json(checkpoint, "generation_config.json")
    if isinstance(generation_config.get("top_k"), int):
        writer.add_sampling_top_k(generation_config["top_k"])
    if isinstance(generation_config.get("top_p"), (int, float)):
        writer.add_sampling_top_p(generation_config["top_p"])
    if isinstance(generation_config.get("temperature"), (int, float)):
        writer.add_sampling_temp(generation_config["temperature"])
    writer.add_string("qwenctl.source", checkpoint.repository or checkpoint.name)
    if checkpoint.revision:
        writer.add_string("qwenctl.source.revision", checkpoint.revision)
    writer.add_string("qwenctl.recipe", provenance.recipe)
    writer.add_string("qwenctl.version", provenance.version)


def _add_sizes(writer: gguf.GGUFWriter, config: ModelConfig, *, mtp: bool) -> None:
    """Add the hyperparameters of the text model."""
    writer.add_block_count(config.layers + mtp)  # llama.cpp counts the MTP block as a layer
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_head_count(config.attention_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    _add_rope(writer, config.rope)
    if config.experts:
        writer.add_expert_count(config.experts)
        writer.add_expert_used_count(config.experts_used)
        writer.add_expert_feed_forward_length(config.expert_feed_forward)
        writer.add_expert_shared_feed_forward_length(config.shared_expert_feed_forward)
    else:
        writer.add_feed_forward_length(config.feed_forward)
    if mtp:
        writer.add_nextn_predict_layers(1)


def _add_rope(writer: gguf.GGUFWriter, rope: Rope) -> None:
    """Add the rotary position embedding."""
    writer.add_rope_freq_base(rope.theta)
    writer.add_rope_dimension_count(rope.dim)
    writer.add_rope_dimension_sections(rope.sections)
    if rope.scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.scaling))
        writer.add_rope_scaling_factor(rope.factor)
    if rope.original_context:
        writer.add_rope_scaling_orig_ctx_len(rope.original_context)


def _add_linear_attention(writer: gguf.GGUFWriter, config: ModelConfig, *, mtp: bool) -> None:
    """Add the hyperparameters of the linear attention; llama.cpp uses its keys for state-space models."""
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_state_size(config.linear_key_dim)
    writer.add_ssm_group_count(config.linear_key_heads)
    writer.add_ssm_time_step_rank(config.linear_value_heads)
    writer.add_ssm_inner_size(config.value_channels)
    writer.add_full_attention_interval(config.full_attention_interval)
    # The MTP block has full attention.
    writer.add_array(f"{config.architecture}.attention.recurrent_layers", [*config.linear_layers, *[False] * mtp])


def _add_imatrix(writer: gguf.GGUFWriter, imatrix: Imatrix) -> None:
    """Add the keys that llama-quantize writes about the importance matrix."""
    writer.add_string("quantize.imatrix.file", imatrix.path.name)
    writer.add_string("quantize.imatrix.dataset", imatrix.datasets[0] if imatrix.datasets else "")
    writer.add_uint32("quantize.imatrix.entries_count", len(imatrix.entries))
    writer.add_uint32("quantize.imatrix.chunks_count", imatrix.chunks)


def _size_label(tensors: Iterable[OutputTensor]) -> str:
    """The size label by gguf's rule, such as "512x12M": experts x (shared weights + one expert of every layer)."""
    sizes = [(tensor.name, tensor.shape, tensor.elements) for tensor in tensors]
    experts = [(prod(shape[:2]), shape[2]) for name, shape, _ in sizes if "_exps." in name]
    count = experts[0][1] if experts else 0
    shared = sum(elements for name, _, elements in sizes if "_exps." not in name)
    # Arguments: all weights, shared weights, weights of one expert in all layers, number of experts.
    return gguf.size_label(shared + sum(size * count for size, _ in experts), shared, sum(s for s, _ in experts), count)


def _read_optional_json(checkpoint: Checkpoint, name: str) -> Mapping[str, Any]:
    path = checkpoint.folder / name
    return read_json(path) if path.is_file() else {}
