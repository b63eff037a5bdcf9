"""The MTP block that a GGUF file's header promises, when its tensors are not, or not all, in the file.

Fine-tunes are often saved like that: they keep the keys of the model they were made of and drop the block, which is
used for drafts only. llama.cpp looks up the block's tensors even when it is told to skip them, so such a file needs a
*stand-in* to be loaded: one more split, whose header lists what is missing. Its data is a hole in the file, and is
never read. Metadata and shapes come in; what is missing, and a stand-in, go out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantize.ggml.types import GGML_TYPES
from quantize.gguf_header import read_header
from quantize.qwen35.model_config import MAX_LAYERS
from qwenctl.models.context_memory import metadata_number

Shape = tuple[int, ...]

# The tensors of the block that src/models/qwen35.cpp and qwen35moe.cpp ask for: each of the first whether the block is
# skipped or not, of each of the others one of two only if it is used. The trunk's attention blocks have the same.
_ALWAYS = (
    "attn_norm", "post_attention_norm", "attn_output", "attn_q_norm", "attn_k_norm", "ffn_gate", "ffn_up", "ffn_down",
    "ffn_gate_inp", "ffn_down_exps", "ffn_gate_inp_shexp", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp",
)  # fmt: skip
_IF_USED = (
    ("attn_q", "attn_qkv"), ("attn_k", "attn_qkv"), ("attn_v", "attn_qkv"),
    ("ffn_gate_exps", "ffn_gate_up_exps"), ("ffn_up_exps", "ffn_gate_up_exps"),
)  # fmt: skip
_SMALL, _ANY = GGML_TYPES["IQ1_S"], GGML_TYPES["I8"]  # the fewest bytes, and the fewest for rows of any length
_ALIGNMENT, _VERSION = 32, 3
_U16, _TEXT = 2, 8  # types of values in a GGUF header


@dataclass(frozen=True)
class IncompleteMtp:
    """An MTP block that cannot be used; `block` is its number, the first one's if there are several.

    `missing` are the shapes, in GGUF order, of the tensors that llama.cpp looks up nevertheless, by name. `files` is
    the number of the model's files, and `tensors` how many are in them.
    """

    block: int
    missing: Mapping[str, Shape]
    architecture: str
    tensors: int
    files: int = 1

    @property
    def note(self) -> str:
        """What the user is told, after the file's name."""
        return (
            f"its header promises an MTP block (blk.{self.block}) that is not all in the file: loaded without it, so "
            "there are no MTP drafts; `qwenctl quantize` makes a file that has it"
        )


def find_incomplete_mtp(
    metadata: Mapping[str, object], shapes: Mapping[str, Shape], files: int = 1
) -> IncompleteMtp | None:
    """The MTP block of a model with these keys and tensors, if it is incomplete; None if it is whole or not promised.

    None too for a model that has no block to compare with: it cannot be loaded anyhow.
    """
    try:
        blocks = metadata_number(metadata, "block_count")
        first = blocks - metadata_number(metadata, "nextn_predict_layers", 0)
    except ValueError:
        return None
    if not 0 < first < blocks <= MAX_LAYERS:
        return None
    whole = next((number for number in range(first) if f"blk.{number}.attn_k_norm.weight" in shapes), None)
    if whole is None or f"blk.{whole}.attn_norm.weight" not in shapes:
        return None
    needed = {name: shape for number in range(first, blocks) for name, shape in _needed(shapes, whole, number)}
    missing = {name: shape for name, shape in needed.items() if name not in shapes}
    if not missing and all(_has_used(shapes, whole, number) for number in range(first, blocks)):
        return None
    return IncompleteMtp(first, missing, str(metadata["general.architecture"]), len(shapes), files)


def read_incomplete_mtp(files: list[Path]) -> IncompleteMtp | None:
    """`find_incomplete_mtp` for the model in these files. Raises QuantizeError for one that cannot be read."""
    headers = [read_header(file) for file in files]
    shapes = {tensor.name: tensor.shape for header in headers for tensor in header.tensors}
    return find_incomplete_mtp(headers[0].metadata, shapes, len(files))


def write_stand_in(path: Path, block: IncompleteMtp) -> int:
    """Write the stand-in for what `block` misses, as the last split of the model; the bytes its tensors claim to have.

    They take no space on the disk. Raises OSError.
    """
    header = bytearray(b"GGUF" + struct.pack("<IQQ", _VERSION, len(block.missing), 2))
    header += _text("general.architecture") + struct.pack("<I", _TEXT) + _text(block.architecture)
    header += _text("split.no") + struct.pack("<IH", _U16, block.files)
    offset = claimed = 0
    for name, shape in block.missing.items():
        kind = _ANY if shape[0] % _SMALL.block_elements else _SMALL
        n_bytes = math.prod(shape) // kind.block_elements * kind.block_bytes
        header += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind.id, offset)
        offset, claimed = offset + _aligned(n_bytes), claimed + n_bytes
    with path.open("xb") as file:
        file.write(header)
        file.truncate(_aligned(len(header)) + offset)
    return claimed


def _needed(shapes: Mapping[str, Shape], whole: int, number: int) -> Iterator[tuple[str, Shape]]:
    """What llama.cpp looks up in the MTP block `number` in any case, if the block `whole` is as it should be."""
    for name in _ALWAYS:
        if (shape := shapes.get(f"blk.{whole}.{name}.weight")) is not None:
            yield f"blk.{number}.{name}.weight", shape
    (hidden,) = shapes[f"blk.{whole}.attn_norm.weight"][:1]
    yield f"blk.{number}.nextn.eh_proj.weight", (2 * hidden, hidden)
    yield f"blk.{number}.nextn.enorm.weight", (hidden,)
    yield f"blk.{number}.nextn.hnorm.weight", (hidden,)


def _has_used(shapes: Mapping[str, Shape], whole: int, number: int) -> bool:
    """Whether the MTP block `number` has what is needed to use it, as far as the block `whole` has it."""
    return all(
        any(f"blk.{number}.{name}.weight" in shapes for name in names)
        for names in _IF_USED
        if any(f"blk.{whole}.{name}.weight" in shapes for name in names)
    )


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
