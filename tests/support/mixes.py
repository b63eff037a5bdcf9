"""The type of every tensor of the published models for every recipe: `data/expected/mixes.json`.

The types come from llama-quantize's dry run on a sparse GGUF file with a real header. Stored is the beginning of a
sha256 for each model (with and without its MTP block), recipe, and with or without importance matrix. `python -m
tests.support.mixes --llama-cpp DIR` regenerates the data and prints where ours differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from quantize.plan import ConversionPlan, QuantizeOptions, make_plan
from quantize.recipe.recipes import RECIPES, RecipeContext, assign_types
from tests.support import checkpoints
from tests.support.paths import DATA
from tests.support.peer import Peer, add_peer_options, peer_of
from tests.support.qwen35_layout import PUBLISHED, Layout

GOLDEN = DATA / "expected" / "mixes.json"
MIXED = [name for name in RECIPES if name not in ("F32", "F16", "BF16")]
MODELS = [f"{size}{mtp}" for size in PUBLISHED for mtp in ("", " without MTP")]
Types = Mapping[str, str]


def planned(model: str, folder: Path) -> ConversionPlan:
    """The plan of a model of `MODELS` in BF16."""
    size, _, without_mtp = model.partition(" ")
    sizes = replace(PUBLISHED[size], mtp=not without_mtp, vision=None)
    source = checkpoints.make_sparse(folder / "model", sizes, Layout(mtp_experts="packed"))
    return make_plan(source, folder / "model.gguf", QuantizeOptions("BF16"))


def our_types(plan: ConversionPlan, recipe: str, *, imatrix: bool) -> dict[str, str]:
    """The types of all tensors except those that stay float32."""
    config = plan.config
    facts = RecipeContext(config.layers + plan.mtp, config.experts, config.query_groups, imatrix)
    shapes = {planned.tensor.name: planned.tensor.shape for file in plan.files for planned in file.tensors}
    chosen = assign_types(RECIPES[recipe], shapes, facts, [])
    return {name: kind.name for name, kind in chosen.items() if kind.name != "F32"}


def digest(types: Types) -> str:
    """The first 64 bits of a hash of all types, in hexadecimal."""
    lines = (f"{name} {kind}\n" for name, kind in sorted(types.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def key(recipe: str, *, imatrix: bool) -> str:
    """The key of an entry of the data."""
    return f"{recipe}+imatrix" if imatrix else recipe


# ------------------------------------------------------------------ types by llama.cpp


def _their_types(peer: Peer, model: Path, recipe: str, imatrix: Path | None) -> dict[str, str]:
    options = ["--dry-run", *(["--imatrix", str(imatrix)] if imatrix else [])]
    program, *arguments = peer.quantize(model, Path("unused"), recipe, 1)
    done = subprocess.run([program, *options, *arguments], capture_output=True, text=True, check=True)
    found = re.findall(r"\] (\S+) +- \[.*?\], type = .*?size = .*?\((\w+)\)", done.stdout + done.stderr)
    return {name: kind.upper() for name, kind in found}


def _write_header(plan: ConversionPlan) -> Path:
    """Write the planned file with a hole in place of its weights."""
    (file,) = plan.files
    with file.path.open("wb") as output:
        output.write(file.header)
        output.truncate(file.n_bytes)
    return file.path


def _write_imatrix(path: Path, columns: int) -> Path:
    """Write the smallest importance matrix that llama-quantize reads: a mix depends only on whether there is one."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["none"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor("blk.0.attn_qkv.weight.in_sum2", np.ones((1, columns), np.float32))
    writer.add_tensor("blk.0.attn_qkv.weight.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _golden(peer: Peer, model: str, folder: Path) -> dict[str, str]:
    plan = planned(model, folder)
    header, imatrix = _write_header(plan), _write_imatrix(folder / "imatrix.gguf", plan.config.hidden)
    found = {}
    for recipe in MIXED:
        for used in (False, True):
            ours = our_types(plan, recipe, imatrix=used)
            theirs = _their_types(peer, header, recipe, imatrix if used else None)
            found[key(recipe, imatrix=used)] = digest(theirs)
            for name in sorted(ours.keys() | theirs.keys()):
                if ours.get(name) != theirs.get(name):
                    print(f"{model}, {recipe}: {name} {ours.get(name)} here, {theirs.get(name)} there")
    return found


def _main() -> None:
    parser = argparse.ArgumentParser(description="Make data/expected/mixes.json anew with llama-quantize.")
    add_peer_options(parser)
    peer = peer_of(parser.parse_args())
    if peer is None:
        parser.error("--llama-cpp DIR is needed")
    golden = {}
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            golden[model] = _golden(peer, model, Path(folder))
    GOLDEN.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    _main()
