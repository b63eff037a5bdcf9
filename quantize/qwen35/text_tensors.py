"""Map the checkpoint tensors of the Qwen3.5 text model to the tensors of the GGUF file.

`ModelConfig` and `CheckpointIndex` come in, a list of `OutputTensor` goes out. This is the only module that knows the
names, shapes and transforms of the text model. They are those of llama.cpp's converter (`Qwen3_5TextModel` and its base
classes in `conversion/qwen.py`), and the results agree byte for byte. Shapes in comments are row-major, as in the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator

from quantize.qwen35.model_config import ModelConfig
from quantize.tensors import (
    CheckpointIndex,
    OutputTensor,
    RowRange,
    Transform,
    ValueHeadTiling,
    single_range_tensor,
    split_range,
)


def text_tensors(config: ModelConfig, index: CheckpointIndex, *, mtp: bool) -> list[OutputTensor]:
    """All tensors of the text model in llama.cpp's order; with `mtp`, including those of the MTP block.

    Problems are collected in `index`; its `validate` raises them.
    """
    tensors = list(_global_tensors(config, index))
    for layer, linear in enumerate(config.linear_layers):
        tensors += _block(config, index, f"layers.{layer}", f"blk.{layer}", linear=linear)
    if mtp:
        tensors += _mtp_block(config, index, f"blk.{config.layers}")
    return sorted(tensors, key=lambda tensor: tensor_sort_key(tensor.name))


def tensor_sort_key(name: str) -> tuple[int, str]:
    """Sort key for llama.cpp's tensor order: tensors outside blocks first, then by block, then by name."""
    parts = name.split(".", 2)
    return (int(parts[1]) if parts[0] == "blk" else -1, name)


def _global_tensors(config: ModelConfig, index: CheckpointIndex) -> Iterator[OutputTensor]:
    """The tensors outside the blocks: embeddings, output norm and output matrix."""
    matrix = (config.vocabulary, config.hidden)
    yield single_range_tensor("token_embd.weight", matrix[::-1], index.row_range("embed_tokens.weight", matrix))
    yield _vector_tensor(index, "norm.weight", "output_norm.weight", config.hidden, "plus_one")
    if _has_own_head(config, index):
        yield single_range_tensor("output.weight", matrix[::-1], index.row_range("lm_head.weight", matrix))


def _has_own_head(config: ModelConfig, index: CheckpointIndex) -> bool:
    """Whether the file gets an output matrix; libllama uses the embeddings otherwise.

    As in transformers, an output matrix that the checkpoint has is used, unless it is that copy of the embeddings which
    config.json promises; and one that it lacks is the embeddings if any part of config.json says so.
    """
    if "lm_head.weight" not in index:
        if config.tied_embeddings and config.contradicts_tying:
            index.notes.append("config.json contradicts itself about tie_word_embeddings; there is no lm_head: tied")
        return not config.tied_embeddings
    if not config.tied_embeddings:
        return True
    if index.leave_out_copy("lm_head.weight", of="embed_tokens.weight"):
        return False
    index.notes.append(
        "lm_head.weight is kept, though config.json has tie_word_embeddings: it cannot be compared yet"
        if index.headers_only
        else "lm_head.weight is kept: it differs from the embeddings, though config.json has tie_word_embeddings"
    )
    return True


def _mtp_block(config: ModelConfig, index: CheckpointIndex, block: str) -> Iterator[OutputTensor]:
    """The multi-token-prediction block: a projection of (embedding, hidden state), then a full-attention layer."""
    hidden = config.hidden
    projection = index.row_range("mtp.fc.weight", (hidden, 2 * hidden))
    yield single_range_tensor(f"{block}.nextn.eh_proj.weight", (2 * hidden, hidden), projection)
    for source, name in (
        ("pre_fc_norm_embedding", "enorm"),
        ("pre_fc_norm_hidden", "hnorm"),
        ("norm", "shared_head_norm"),
    ):
        # The MTP block has the index after the last layer in GGUF, and its extra tensors are named "nextn" there.
        yield _vector_tensor(index, f"mtp.{source}.weight", f"{block}.nextn.{name}.weight", hidden, "plus_one")
    yield from _block(config, index, "mtp.layers.0", block, linear=False)


def _block(
    config: ModelConfig, index: CheckpointIndex, source: str, block: str, *, linear: bool
) -> Iterator[OutputTensor]:
    """The tensors of one layer, read from the prefix `source`; `linear` says which kind of attention it has."""
    hidden = config.hidden
    yield _vector_tensor(index, f"{source}.input_layernorm.weight", f"{block}.attn_norm.weight", hidden, "plus_one")
    source_name = f"{source}.post_attention_layernorm.weight"
    yield _vector_tensor(index, source_name, f"{block}.post_attention_norm.weight", hidden, "plus_one")
    if linear:
        yield from _linear_attention(config, index, f"{source}.linear_attn", block)
    else:
        yield from _full_attention(config, index, f"{source}.self_attn", block)
    if config.experts:
        yield from _mixture_of_experts(config, index, f"{source}.mlp", block)
    else:
        yield from _feed_forward(index, f"{source}.mlp", block, "", hidden, config.feed_forward)


def _full_attention(config: ModelConfig, index: CheckpointIndex, source: str, block: str) -> Iterator[OutputTensor]:
    """The tensors of a full-attention layer."""
    hidden, head = config.hidden, config.head_dim
    queries, keys = config.attention_heads * head, config.kv_heads * head
    for part, name, rows, columns in (
        ("q_proj", "attn_q", 2 * queries, hidden),  # query and gate rows, interleaved by head as in the checkpoint
        ("k_proj", "attn_k", keys, hidden),
        ("v_proj", "attn_v", keys, hidden),
        ("o_proj", "attn_output", hidden, queries),
    ):
        row_range = index.row_range(f"{source}.{part}.weight", (rows, columns))
        yield single_range_tensor(f"{block}.{name}.weight", (columns, rows), row_range)
    yield _vector_tensor(index, f"{source}.q_norm.weight", f"{block}.attn_q_norm.weight", head, "plus_one")
    yield _vector_tensor(index, f"{source}.k_norm.weight", f"{block}.attn_k_norm.weight", head, "plus_one")


def _linear_attention(config: ModelConfig, index: CheckpointIndex, source: str, block: str) -> Iterator[OutputTensor]:
    """The gated DeltaNet layer. Value heads are grouped by key head in the checkpoint and tiled over them in GGUF."""
    hidden, head, values = config.hidden, config.linear_value_dim, config.value_channels
    keys, heads = 2 * config.key_channels, config.linear_value_heads
    # Rows in total, rows per value head, and rows before the value heads: queries and keys, which keep their order.
    for part, name, rows, head_rows, n_before in (
        ("in_proj_qkv", "attn_qkv", keys + values, head, keys),
        ("in_proj_z", "attn_gate", values, head, 0),
        ("in_proj_a", "ssm_alpha", heads, 1, 0),
        ("in_proj_b", "ssm_beta", heads, 1, 0),
    ):
        row_range = index.row_range(f"{source}.{part}.weight", (rows, hidden))
        tiled = _tile_value_heads(config, row_range, head_rows, n_before)
        yield OutputTensor(f"{block}.{name}.weight", (hidden, rows), tiled, hidden)
    # A_log and dt_bias are vectors with one value per value head, so a row is a single value.
    decay = _tile_value_heads(config, index.row_range(f"{source}.A_log", (heads,), row_length=1), 1, 0)
    yield OutputTensor(f"{block}.ssm_a", (heads,), decay, 1, "negative_exp")
    step = _tile_value_heads(config, index.row_range(f"{source}.dt_bias", (heads,), row_length=1), 1, 0)
    yield OutputTensor(f"{block}.ssm_dt.bias", (heads,), step, 1)
    kernel = config.conv_kernel
    row_range = index.row_range(f"{source}.conv1d.weight", (keys + values, 1, kernel))
    tiled = _tile_value_heads(config, row_range, head, keys)
    yield OutputTensor(f"{block}.ssm_conv1d.weight", (kernel, keys + values), tiled, kernel)
    # The only norm whose published weight is the factor itself, not the factor minus one.
    yield _vector_tensor(index, f"{source}.norm.weight", f"{block}.ssm_norm.weight", head, "copy")
    # Here the value heads are the columns, so the rows stay in place and their columns are tiled.
    row_range = index.row_range(f"{source}.out_proj.weight", (hidden, values))
    per_key = heads // config.linear_key_heads
    columns = ValueHeadTiling(config.linear_key_heads, per_key, head) if per_key > 1 else None
    yield OutputTensor(f"{block}.ssm_out.weight", (values, hidden), (row_range,), values, column_tiling=columns)


def _tile_value_heads(config: ModelConfig, row_range: RowRange, head_rows: int, n_before: int) -> tuple[RowRange, ...]:
    """Reorder the value heads of `row_range`: `head_rows` rows each, starting after the first `n_before` rows.

    Output head j is source head (j mod K) * V + j div K, for K key heads with V value heads each.
    """
    key_heads = config.linear_key_heads
    per_key = config.linear_value_heads // key_heads
    if per_key == 1:
        return (row_range,)
    heads = [(head % key_heads) * per_key + head // key_heads for head in range(config.linear_value_heads)]
    tiled = tuple(split_range(row_range, n_before + head * head_rows, head_rows) for head in heads)
    return (split_range(row_range, 0, n_before), *tiled) if n_before else tiled


def _mixture_of_experts(config: ModelConfig, index: CheckpointIndex, source: str, block: str) -> Iterator[OutputTensor]:
    """The tensors of a mixture of experts: router, shared expert with its gate, and stacked experts."""
    hidden, experts, width = config.hidden, config.experts, config.expert_feed_forward
    router = index.row_range(f"{source}.gate.weight", (experts, hidden))
    yield single_range_tensor(f"{block}.ffn_gate_inp.weight", (hidden, experts), router)
    gate = index.row_range(f"{source}.shared_expert_gate.weight", (1, hidden))
    yield single_range_tensor(f"{block}.ffn_gate_inp_shexp.weight", (hidden, 1), gate)
    shared = config.shared_expert_feed_forward
    yield from _feed_forward(index, f"{source}.shared_expert", block, "_shexp", hidden, shared)
    # The layout differs between releases, and even between blocks (the MTP block of the BF16 repositories).
    expert_ranges = _packed_experts if f"{source}.experts.gate_up_proj" in index else _separate_experts
    gate_ranges, up_ranges, down_ranges = expert_ranges(config, index, f"{source}.experts")
    yield OutputTensor(f"{block}.ffn_gate_exps.weight", (hidden, width, experts), gate_ranges, hidden)
    yield OutputTensor(f"{block}.ffn_up_exps.weight", (hidden, width, experts), up_ranges, hidden)
    yield OutputTensor(f"{block}.ffn_down_exps.weight", (width, hidden, experts), down_ranges, width)


_Ranges = tuple[RowRange, ...]


def _packed_experts(config: ModelConfig, index: CheckpointIndex, source: str) -> tuple[_Ranges, _Ranges, _Ranges]:
    """Rows of gate, up and down of all experts, from gate_up_proj [E, 2 F, H] (gate first) and down_proj [E, H, F]."""
    experts, width, hidden = config.experts, config.expert_feed_forward, config.hidden
    gate_up = index.row_range(f"{source}.gate_up_proj", (experts, 2 * width, hidden))
    down = index.row_range(f"{source}.down_proj", (experts, hidden, width))
    gates = tuple(split_range(gate_up, 2 * width * expert, width) for expert in range(experts))
    ups = tuple(split_range(gate_up, 2 * width * expert + width, width) for expert in range(experts))
    return gates, ups, (down,)


def _separate_experts(config: ModelConfig, index: CheckpointIndex, source: str) -> tuple[_Ranges, _Ranges, _Ranges]:
    """Rows of gate, up and down of all experts, from one tensor per expert: gate, up [F, H] and down [H, F]."""
    experts, width, hidden = config.experts, config.expert_feed_forward, config.hidden

    def stack(part: str, shape: tuple[int, int]) -> _Ranges:
        return tuple(index.row_range(f"{source}.{expert}.{part}.weight", shape) for expert in range(experts))

    gate_up_shape = (width, hidden)
    return stack("gate_proj", gate_up_shape), stack("up_proj", gate_up_shape), stack("down_proj", (hidden, width))


def _feed_forward(
    index: CheckpointIndex, source: str, block: str, suffix: str, hidden: int, width: int
) -> Iterator[OutputTensor]:
    """The gate, up and down matrices of a dense layer or of the shared expert."""
    for part, rows, columns in (("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)):
        row_range = index.row_range(f"{source}.{part}_proj.weight", (rows, columns))
        yield single_range_tensor(f"{block}.ffn_{part}{suffix}.weight", (columns, rows), row_range)


def _vector_tensor(index: CheckpointIndex, source: str, name: str, length: int, transform: Transform) -> OutputTensor:
    """A vector, such as a norm, with `transform` applied."""
    return single_range_tensor(name, (length,), index.row_range(source, (length,)), transform)
