"""The text model of Qwen3.5: which source tensors make which tensors of the GGUF file.

`ModelConfig` and `CheckpointIndex` come in, a list of `OutputTensor` goes out. This is the only place that knows the
names, shapes and transforms of the text model; they are those of llama.cpp's converter (`Qwen3_5TextModel` and its
bases in `conversion/qwen.py`), with which the results agree byte for byte. Shapes in comments are row-major, as in the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator

from quantize.qwen35.model_config import ModelConfig
from quantize.tensors import (
    Arithmetic,
    CheckpointIndex,
    OutputTensor,
    RowRange,
    ValueHeadTiling,
    single_range_tensor,
    split_run,
)


def text_tensors(config: ModelConfig, sources: CheckpointIndex, *, mtp: bool) -> list[OutputTensor]:
    """All tensors of the text model, in llama.cpp's order; the MTP block's are left out unless `mtp`.

    Problems are noted in `sources`, whose `finish` raises them.
    """
    tensors = list(_globals(config, sources))
    for layer, linear in enumerate(config.linear_layers):
        tensors += _block(config, sources, f"layers.{layer}", f"blk.{layer}", linear=linear)
    if mtp:
        tensors += _mtp(config, sources, f"blk.{config.layers}")
    return sorted(tensors, key=lambda tensor: tensor_sort_key(tensor.name))


def tensor_sort_key(name: str) -> tuple[int, str]:
    """llama.cpp's order of tensors: those outside blocks first, then by block, then by name."""
    parts = name.split(".", 2)
    return (int(parts[1]) if parts[0] == "blk" else -1, name)


def _globals(config: ModelConfig, sources: CheckpointIndex) -> Iterator[OutputTensor]:
    matrix = (config.vocabulary, config.hidden)
    yield single_range_tensor("token_embd.weight", matrix[::-1], sources.row_range("embed_tokens.weight", matrix))
    yield _vector(sources, "norm.weight", "output_norm.weight", config.hidden, "plus_one")
    if config.tied_embeddings:
        sources.skip_prefixes(["lm_head."])  # a copy of the embeddings, which libllama uses itself
    else:
        yield single_range_tensor("output.weight", matrix[::-1], sources.row_range("lm_head.weight", matrix))


def _mtp(config: ModelConfig, sources: CheckpointIndex, block: str) -> Iterator[OutputTensor]:
    """The multi-token-prediction block: a full-attention layer behind a projection of (embedding, hidden state)."""
    hidden = config.hidden
    projection = sources.row_range("mtp.fc.weight", (hidden, 2 * hidden))
    yield single_range_tensor(f"{block}.nextn.eh_proj.weight", (2 * hidden, hidden), projection)
    for source, name in (
        ("pre_fc_norm_embedding", "enorm"),
        ("pre_fc_norm_hidden", "hnorm"),
        ("norm", "shared_head_norm"),
    ):
        yield _vector(sources, f"mtp.{source}.weight", f"{block}.nextn.{name}.weight", hidden, "plus_one")
    yield from _block(config, sources, "mtp.layers.0", block, linear=False)


def _block(
    config: ModelConfig, sources: CheckpointIndex, source: str, block: str, *, linear: bool
) -> Iterator[OutputTensor]:
    hidden = config.hidden
    yield _vector(sources, f"{source}.input_layernorm.weight", f"{block}.attn_norm.weight", hidden, "plus_one")
    after = f"{source}.post_attention_layernorm.weight"
    yield _vector(sources, after, f"{block}.post_attention_norm.weight", hidden, "plus_one")
    if linear:
        yield from _linear_attention(config, sources, f"{source}.linear_attn", block)
    else:
        yield from _full_attention(config, sources, f"{source}.self_attn", block)
    if config.experts:
        yield from _mixture_of_experts(config, sources, f"{source}.mlp", block)
    else:
        yield from _feed_forward(sources, f"{source}.mlp", block, "", hidden, config.feed_forward)


def _full_attention(config: ModelConfig, sources: CheckpointIndex, source: str, block: str) -> Iterator[OutputTensor]:
    hidden, head = config.hidden, config.head_dim
    queries, keys = config.attention_heads * head, config.kv_heads * head
    for part, name, rows, columns in (
        ("q_proj", "attn_q", 2 * queries, hidden),  # query and gate rows interleaved by head, kept so
        ("k_proj", "attn_k", keys, hidden),
        ("v_proj", "attn_v", keys, hidden),
        ("o_proj", "attn_output", hidden, queries),
    ):
        run = sources.row_range(f"{source}.{part}.weight", (rows, columns))
        yield single_range_tensor(f"{block}.{name}.weight", (columns, rows), run)
    yield _vector(sources, f"{source}.q_norm.weight", f"{block}.attn_q_norm.weight", head, "plus_one")
    yield _vector(sources, f"{source}.k_norm.weight", f"{block}.attn_k_norm.weight", head, "plus_one")


def _linear_attention(config: ModelConfig, sources: CheckpointIndex, source: str, block: str) -> Iterator[OutputTensor]:
    """Gated DeltaNet. Value heads are grouped by key head in the checkpoint, tiled over key heads in GGUF."""
    hidden, head, values = config.hidden, config.linear_value_dim, config.value_channels
    keys, heads = 2 * config.key_channels, config.linear_value_heads
    for part, name, rows, head_rows, before in (
        ("in_proj_qkv", "attn_qkv", keys + values, head, keys),
        ("in_proj_z", "attn_gate", values, head, 0),
        ("in_proj_a", "ssm_alpha", heads, 1, 0),
        ("in_proj_b", "ssm_beta", heads, 1, 0),
    ):
        run = sources.row_range(f"{source}.{part}.weight", (rows, hidden))
        tiled = _tile_value_heads(config, run, head_rows, before)
        yield OutputTensor(f"{block}.{name}.weight", (hidden, rows), tiled, hidden)
    decay = _tile_value_heads(config, sources.row_range(f"{source}.A_log", (heads,), row_length=1), 1, 0)
    yield OutputTensor(f"{block}.ssm_a", (heads,), decay, 1, "negative_exp")
    step = _tile_value_heads(config, sources.row_range(f"{source}.dt_bias", (heads,), row_length=1), 1, 0)
    yield OutputTensor(f"{block}.ssm_dt.bias", (heads,), step, 1)
    kernel = config.conv_kernel
    run = sources.row_range(f"{source}.conv1d.weight", (keys + values, 1, kernel))
    tiled = _tile_value_heads(config, run, head, keys)
    yield OutputTensor(f"{block}.ssm_conv1d.weight", (kernel, keys + values), tiled, kernel)
    # The one norm whose published weight is the factor itself, not the factor minus one.
    yield _vector(sources, f"{source}.norm.weight", f"{block}.ssm_norm.weight", head, "copy")
    run = sources.row_range(f"{source}.out_proj.weight", (hidden, values))
    per_key = heads // config.linear_key_heads
    columns = ValueHeadTiling(config.linear_key_heads, per_key, head) if per_key > 1 else None
    yield OutputTensor(f"{block}.ssm_out.weight", (values, hidden), (run,), values, columns=columns)


def _tile_value_heads(config: ModelConfig, run: RowRange, head_rows: int, before: int) -> tuple[RowRange, ...]:
    """The rows of `run` with its value heads (of `head_rows` rows, after the first `before` rows) tiled.

    Output head j is source head (j mod K) * V + j div K, for K key heads with V value heads each.
    """
    key_heads = config.linear_key_heads
    per_key = config.linear_value_heads // key_heads
    if per_key == 1:
        return (run,)
    heads = [(head % key_heads) * per_key + head // key_heads for head in range(config.linear_value_heads)]
    tiled = tuple(split_run(run, before + head * head_rows, head_rows) for head in heads)
    return (split_run(run, 0, before), *tiled) if before else tiled


def _mixture_of_experts(
    config: ModelConfig, sources: CheckpointIndex, source: str, block: str
) -> Iterator[OutputTensor]:
    hidden, experts, width = config.hidden, config.experts, config.expert_feed_forward
    router = sources.row_range(f"{source}.gate.weight", (experts, hidden))
    yield single_range_tensor(f"{block}.ffn_gate_inp.weight", (hidden, experts), router)
    gate = sources.row_range(f"{source}.shared_expert_gate.weight", (1, hidden))
    yield single_range_tensor(f"{block}.ffn_gate_inp_shexp.weight", (hidden, 1), gate)
    shared = config.shared_expert_feed_forward
    yield from _feed_forward(sources, f"{source}.shared_expert", block, "_shexp", hidden, shared)
    # Layout differs by release and even by block of one release (the MTP block of the BF16 repositories).
    expert_runs = _packed_experts if f"{source}.experts.gate_up_proj" in sources else _single_experts
    gate_runs, up_runs, down_runs = expert_runs(config, sources, f"{source}.experts")
    yield OutputTensor(f"{block}.ffn_gate_exps.weight", (hidden, width, experts), gate_runs, hidden)
    yield OutputTensor(f"{block}.ffn_up_exps.weight", (hidden, width, experts), up_runs, hidden)
    yield OutputTensor(f"{block}.ffn_down_exps.weight", (width, hidden, experts), down_runs, width)


_Runs = tuple[RowRange, ...]


def _packed_experts(config: ModelConfig, sources: CheckpointIndex, source: str) -> tuple[_Runs, _Runs, _Runs]:
    """gate, up and down of all experts from gate_up_proj [E, 2 F, H], gate first, and down_proj [E, H, F]."""
    experts, width, hidden = config.experts, config.expert_feed_forward, config.hidden
    both = sources.row_range(f"{source}.gate_up_proj", (experts, 2 * width, hidden))
    down = sources.row_range(f"{source}.down_proj", (experts, hidden, width))
    gates = tuple(split_run(both, 2 * width * expert, width) for expert in range(experts))
    ups = tuple(split_run(both, 2 * width * expert + width, width) for expert in range(experts))
    return gates, ups, (down,)


def _single_experts(config: ModelConfig, sources: CheckpointIndex, source: str) -> tuple[_Runs, _Runs, _Runs]:
    """gate, up [F, H] and down [H, F] of all experts from a tensor for each."""
    experts, width, hidden = config.experts, config.expert_feed_forward, config.hidden

    def stack(part: str, shape: tuple[int, int]) -> _Runs:
        return tuple(sources.row_range(f"{source}.{expert}.{part}.weight", shape) for expert in range(experts))

    wide = (width, hidden)
    return stack("gate_proj", wide), stack("up_proj", wide), stack("down_proj", (hidden, width))


def _feed_forward(
    sources: CheckpointIndex, source: str, block: str, suffix: str, hidden: int, width: int
) -> Iterator[OutputTensor]:
    for part, rows, columns in (("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)):
        run = sources.row_range(f"{source}.{part}_proj.weight", (rows, columns))
        yield single_range_tensor(f"{block}.ffn_{part}{suffix}.weight", (columns, rows), run)


def _vector(sources: CheckpointIndex, source: str, name: str, length: int, arithmetic: Arithmetic) -> OutputTensor:
    return single_range_tensor(name, (length,), sources.row_range(source, (length,)), arithmetic)
