"""Classify tensors by GGUF name: what a tensor is for, which decides how often it is read and where to place it."""

from __future__ import annotations

ROUTED_EXPERTS = "routed experts"
SHARED_EXPERT = "shared expert"
FEED_FORWARD = "feed-forward"
ATTENTION = "attention"
LINEAR_ATTENTION = "linear attention"
EMBEDDINGS = "embeddings"
NORMS_AND_ROUTERS = "norms and routers"
MTP = "MTP"
VISION = "vision"

CLASSES = (
    ROUTED_EXPERTS, SHARED_EXPERT, FEED_FORWARD, ATTENTION, LINEAR_ATTENTION, EMBEDDINGS, NORMS_AND_ROUTERS, MTP, VISION
)  # fmt: skip

# Name parts of tensors of linear-attention and of full-attention layers.
_LINEAR = ("ssm_", "attn_qkv.", "attn_gate.")
_FULL = ("attn_q.", "attn_k.", "attn_v.", "attn_output.")


def tensor_class(name: str, layers: int) -> str:
    """The class of the tensor `name` in a model with `layers` layers before the MTP block."""
    if name.startswith(("v.", "mm.")):
        return VISION
    if name in ("token_embd.weight", "output.weight"):
        return EMBEDDINGS
    if not name.startswith("blk."):
        return NORMS_AND_ROUTERS
    _, block, part = name.split(".", 2)
    if int(block) >= layers:
        return MTP
    return _class_of_part(part)


def _class_of_part(part: str) -> str:
    """The class of a tensor of a layer, by its name after "blk.N."."""
    if "_exps." in part:
        return ROUTED_EXPERTS
    if "norm." in part or "ffn_gate_inp" in part:
        return NORMS_AND_ROUTERS
    if "_shexp." in part:
        return SHARED_EXPERT
    if part.startswith(_LINEAR):
        return LINEAR_ATTENTION
    return ATTENTION if part.startswith(_FULL) else FEED_FORWARD
