"""Checkpoints unlike the toy, and llama.cpp's conversions of them: `data/expected/variants.json`.

Each variant is a small random checkpoint (`checkpoints.py`). For each file converted from it the data have two sha256:
one over name, type, shape and content of all tensors, one over the metadata. `python -m tests.support.variants
--llama-cpp DIR` regenerates the data with convert_hf_to_gguf.py and llama-quantize, and prints where our files differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from tests.support import checkpoints
from tests.support.gguf_files import converted, metadata, tensors
from tests.support.paths import DATA
from tests.support.peer import Peer, add_peer_options, peer_of
from tests.support.qwen35_layout import FP8, Layout, Model, Vision

GOLDEN = DATA / "expected" / "variants.json"
_NAMING = {f"general.{key}" for key in ("name", "basename", "finetune", "version", "organization")}
_MOE = Model(layers=4, experts=6, shared_width=512, vision=Vision(depth=1, positions=64))
_DENSE = replace(_MOE, experts=0, width=512)


@dataclass(frozen=True)
class Variant:
    """A checkpoint of random weights."""

    model: Model
    layout: Layout = field(default_factory=Layout)

    @property
    def types(self) -> list[str]:
        """The types of the files that are converted from it."""
        vision = ["mmproj-F16"] if self.model.vision and not self.layout.flat else []
        return ["F32", "BF16", *(["F16"] if self.layout.dtype == "F16" else []), "Q8_0", "Q4_K_M", *vision]

    def make(self, folder: Path) -> Path:
        """Write the checkpoint."""
        return checkpoints.make(folder, self.model, self.layout, seed=1)


VARIANTS = {
    "packed trunk, MTP one by one": Variant(replace(_MOE, layers=8)),
    "all experts one by one": Variant(_MOE, Layout(trunk_experts="single")),
    "FP8": Variant(replace(_MOE, layers=8), FP8),
    "FP8, blocks at edges": Variant(replace(_MOE, hidden=320, width=96, shared_width=160), FP8),
    "without MTP": Variant(replace(_MOE, layers=8, mtp=False)),
    "equal heads": Variant(replace(_MOE, key_heads=4)),
    "three value heads a key head": Variant(replace(_MOE, value_heads=6)),
    "eight query heads a KV head": Variant(replace(_MOE, attention_heads=8, kv_heads=1)),
    "yarn": Variant(replace(_MOE, yarn=True)),
    "F16": Variant(_MOE, Layout("F16")),
    "F32": Variant(_MOE, Layout("F32")),
    "flat": Variant(_MOE, Layout(flat=True)),
    "dense": Variant(replace(_DENSE, layers=8)),
    "dense, tied": Variant(replace(_DENSE, tied=True)),
    "dense, FP8": Variant(_DENSE, FP8),
    "dense, flat, F16, without MTP": Variant(replace(_DENSE, mtp=False), Layout("F16", flat=True)),
    "dense, odd width": Variant(replace(_DENSE, width=336)),
}


def weights_digest(folder: Path) -> str:
    """A hash of a checkpoint's weights, to compare with those that the data were made from."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def digests(found: Mapping[str, Any], path: Path) -> list[str]:
    """The two sha256 of a GGUF file with the tensors `found`. The content of `ssm_a` is left to `decays`."""
    saved = {name: tensor[:2] if name.endswith("ssm_a") else tensor for name, tensor in found.items()}
    return [_digest(saved), _digest(comparable_metadata(path))]


def comparable_metadata(path: Path) -> dict[str, Any]:
    """The metadata without names and origin, which llama.cpp takes from elsewhere."""
    keys = metadata(path)
    return {key: value for key, value in keys.items() if key not in _NAMING and not key.startswith("qwenctl.")}


def decays(path: Path) -> npt.NDArray[np.float32]:
    """All values of `ssm_a`, -exp(A_log). They are compared separately, as exponentials differ in the last bit."""
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors if tensor.name.endswith("ssm_a")}
    return np.concatenate([found[name] for name in sorted(found)])


def _digest(values: Mapping[str, Any]) -> str:
    lines = (f"{name} {json.dumps(value)}\n" for name, value in sorted(values.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def our_file(name: str, source: Path, folder: Path) -> Path:
    """Convert a checkpoint to the file `name` with `quantize`."""
    if name.startswith("mmproj-"):
        plan = converted(source, folder / "beside.gguf", "F16", vision_type=name.removeprefix("mmproj-"))
        return plan.vision_files[0].path
    converted(source, folder / f"{name}.gguf", name, vision=False)
    return folder / f"{name}.gguf"


# ------------------------------------------------------------------ files by llama.cpp


def _peer_files(peer: Peer, variant: Variant, source: Path, folder: Path) -> dict[str, Path]:
    """llama.cpp's files of a checkpoint. It quantizes its F32 file, as BF16 would round an F16, F32 or FP8 source."""
    files = {name: folder / f"{name}.gguf" for name in variant.types}
    for name, path in files.items():
        if name.startswith("mmproj-"):
            _run(peer.convert(source, path, name.removeprefix("mmproj-"), "--mmproj"))
        elif name in ("F32", "F16", "BF16"):
            _run(peer.convert(source, path, name, *([] if variant.model.mtp else ["--no-mtp"])))
        else:
            _run(peer.quantize(files["F32"], path, name, 2))
    return files


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def _golden(peer: Peer, name: str, variant: Variant, folder: Path) -> dict[str, Any]:
    source = variant.make(folder / "model")
    theirs = _peer_files(peer, variant, source, folder)
    (folder / "ours").mkdir()
    for kind, path in theirs.items():
        print(f"{name}, {kind}: {_difference(our_file(kind, source, folder / 'ours'), path) or 'equal'}", flush=True)
    return {
        "weights": weights_digest(source),
        "decays": decays(theirs["F32"]).tobytes().hex(),
        "files": {kind: digests(tensors(path), path) for kind, path in theirs.items()},
    }


def _difference(ours: Path, theirs: Path) -> str:
    """A description of the differences between two files."""
    pairs = [(tensors(ours), tensors(theirs)), (comparable_metadata(ours), comparable_metadata(theirs))]
    return "; ".join(
        f"{name}: {our.get(name)} here, {their.get(name)} there"
        for our, their in pairs
        for name in sorted(our.keys() | their.keys())
        if our.get(name) != their.get(name)
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description="Make data/expected/variants.json anew with llama.cpp.")
    add_peer_options(parser)
    peer = peer_of(parser.parse_args())
    if peer is None:
        parser.error("--llama-cpp DIR is needed")
    golden = {}
    for name, variant in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            golden[name] = _golden(peer, name, variant, Path(folder))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    _main()
