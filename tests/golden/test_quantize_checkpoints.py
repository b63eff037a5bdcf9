"""Checkpoints in other layouts, types and sizes than the toy's give the same tensors, and files that libllama runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantize.gguf_header import read_header
from tests.support import checkpoints
from tests.support.gguf_files import converted, metadata, tensors
from tests.support.libllama import logits
from tests.support.qwen35_layout import FP8, Layout, Model, Vision, config, specs

SMALL = Model(layers=4, experts=4, width=64, shared_width=64, vision=Vision(depth=1, positions=16))
DENSE = replace(SMALL, experts=0, width=512)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROMPT = [1957, 84, 101, 1958, 12, 7, 300]


def converted_tensors(
    folder: Path, source: Path, type_name: str = "Q4_K_M", **options: object
) -> dict[str, list[object]]:
    """The tensors of both files that are converted from `source`."""
    plan = converted(source, folder / f"{source.name}-{type_name}.gguf", type_name, **options)
    return {name: tensor for file in plan.files for name, tensor in tensors(file.path).items()}


# ------------------------------------------------------------------ storage of weights


@pytest.mark.parametrize("under", ["model.", "mtp.", ""], ids=["trunk", "MTP block", "both"])
def test_single_and_packed_experts_give_the_same_bytes(under: str, toy: Path, tmp_path: Path) -> None:
    settings, arrays = checkpoints.toy()
    single = checkpoints.save(tmp_path / "single", settings, checkpoints.single_experts(arrays, under))
    assert converted_tensors(tmp_path, single, "Q5_0") == converted_tensors(tmp_path, toy, "Q5_0")


@pytest.mark.parametrize("model", [SMALL, replace(SMALL, hidden=320, width=96), DENSE], ids=["MoE", "edges", "dense"])
def test_fp8_blocks_are_dequantized_by_their_scales(model: Model, tmp_path: Path) -> None:
    layout = FP8 if model.experts else Layout(fp8=True)
    arrays = checkpoints.random_arrays(specs(model, layout), seed=1)
    stored = checkpoints.save(tmp_path / "fp8", config(model, layout), arrays)
    plain = config(model, replace(layout, fp8=False))
    wide = checkpoints.save(tmp_path / "f32", plain, checkpoints.dequantized(arrays))
    assert converted_tensors(tmp_path, stored, "F32") == converted_tensors(tmp_path, wide, "F32")
    assert converted_tensors(tmp_path, stored, "Q8_0") == converted_tensors(tmp_path, wide, "Q8_0")


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_half_precision_source_equals_the_same_values_in_f32(dtype: str, tmp_path: Path) -> None:
    settings, arrays = checkpoints.toy()
    narrow = checkpoints.as_dtype(arrays, dtype)
    first = checkpoints.save(tmp_path / "narrow", settings, narrow)
    other = checkpoints.save(tmp_path / "wide", settings, checkpoints.as_dtype(narrow, "F32"))
    assert converted_tensors(tmp_path, first, "Q6_K") == converted_tensors(tmp_path, other, "Q6_K")


def test_shards_give_the_same_bytes_as_one_file(tmp_path: Path) -> None:
    settings, arrays = checkpoints.toy()
    one, many = (checkpoints.save(tmp_path / str(n) / "toy", settings, arrays, shards=n) for n in (1, 5))
    converted(one, tmp_path / "one.gguf", "Q4_0")
    converted(many, tmp_path / "many.gguf", "Q4_0")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()


def test_output_bytes_do_not_depend_on_threads_or_runs(toy: Path, tmp_path: Path) -> None:
    files = []
    for number, threads in enumerate((1, 3, 3)):
        (tmp_path / str(number)).mkdir()
        plan = converted(toy, tmp_path / str(number) / "toy.gguf", "Q4_K_M", threads=threads, tool_version="1")
        files.append([file.path.read_bytes() for file in plan.files])
    assert files[0] == files[1] == files[2]


# ------------------------------------------------------------------ model properties


def test_checkpoint_without_mtp_gives_a_file_without_its_key(tmp_path: Path) -> None:
    source = checkpoints.make(tmp_path / "no-mtp", replace(SMALL, mtp=False))
    converted(source, tmp_path / "out.gguf")
    keys = metadata(tmp_path / "out.gguf")
    assert keys["qwen35moe.block_count"] == [["UINT32"], 4]
    assert keys["qwen35moe.attention.recurrent_layers"] == [["ARRAY", "BOOL"], [True, True, True, False]]
    assert not [key for key in keys if "nextn" in key]


def test_no_mtp_option_equals_a_checkpoint_without_mtp(toy: Path, tmp_path: Path) -> None:
    settings, arrays = checkpoints.toy()
    trunk = {name: array for name, array in arrays.items() if not name.startswith("mtp.")}
    source = checkpoints.save(tmp_path / "trunk", settings, trunk)
    assert converted_tensors(tmp_path, toy, "Q4_K_M", mtp=False) == converted_tensors(tmp_path, source, "Q4_K_M")


def test_model_without_a_vision_encoder_gives_no_mmproj_file(toy: Path, tmp_path: Path) -> None:
    blind = checkpoints.make(tmp_path / "blind", replace(SMALL, vision=None))
    assert len(converted(blind, tmp_path / "blind.gguf").files) == 1
    assert len(converted(toy, tmp_path / "toy.gguf", "F16", vision=False).files) == 1


def test_tied_embeddings_take_the_type_of_the_output_tensor(tmp_path: Path) -> None:
    found = converted_tensors(tmp_path, checkpoints.make(tmp_path / "tied", replace(DENSE, tied=True)), "Q4_K_M")
    assert "output.weight" not in found
    assert found["token_embd.weight"][0] == "Q6_K"


def test_equal_head_counts_keep_the_order_of_heads(tmp_path: Path) -> None:
    model = replace(SMALL, key_heads=4, value_heads=4)
    source = checkpoints.make(tmp_path / "equal", model)
    converted(source, tmp_path / "equal.gguf", "F32")
    header = read_header(tmp_path / "equal.gguf")
    place = next(info for info in header.tensors if info.name == "blk.0.attn_qkv.weight")
    data = (tmp_path / "equal.gguf").read_bytes()[header.data_offset + place.offset :][: place.n_bytes]
    stored = checkpoints.random_arrays(specs(model, Layout()), seed=0)
    wanted = stored["model.language_model.layers.0.linear_attn.in_proj_qkv.weight"]
    assert np.array_equal(np.frombuffer(data, np.float32).reshape(wanted.shape), wanted.astype(np.float32))


def test_yarn_settings_are_copied_to_the_metadata(tmp_path: Path) -> None:
    converted(checkpoints.make(tmp_path / "yarn", replace(SMALL, yarn=True)), tmp_path / "yarn.gguf")
    keys = metadata(tmp_path / "yarn.gguf")
    assert {key: value for key, (_, value) in keys.items() if ".rope.scaling." in key} == {
        "qwen35moe.rope.scaling.type": "yarn",
        "qwen35moe.rope.scaling.factor": 4.0,
        "qwen35moe.rope.scaling.original_context_length": 262_144,
    }


def test_hub_cache_checkpoint_records_its_repository_and_commit(toy: Path, tmp_path: Path) -> None:
    cached = tmp_path / "models--Qwen--Qwen3.5-Toy" / "snapshots" / COMMIT
    cached.mkdir(parents=True)
    for path in toy.iterdir():
        (cached / path.name).symlink_to(path)
    assert origin(cached, tmp_path) == ("Qwen/Qwen3.5-Toy", COMMIT, "Qwen3.5-Toy")


def test_hub_download_folder_records_its_commit(tmp_path: Path) -> None:
    plain = checkpoints.save(tmp_path / "plain", *checkpoints.toy())
    assert origin(plain, tmp_path) == ("plain", None, "plain")
    note = plain / ".cache/huggingface/download/config.json.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{COMMIT}\n0123abc\n1700000000.0\n")
    assert origin(plain, tmp_path) == ("plain", COMMIT, "plain")


def origin(source: Path, folder: Path) -> tuple[object, ...]:
    """The source, revision and name in the metadata of a file converted from `source`."""
    output = folder / "out.gguf"
    converted(source, output, "F16", vision=False)
    keys = metadata(output)
    output.unlink()
    names = ("qwenctl.source", "qwenctl.source.revision", "general.name")
    return tuple(keys[name][1] if name in keys else None for name in names)


# ------------------------------------------------------------------ loading in libllama

RUNNABLE = {
    "MoE, experts one by one, sharded": (SMALL, Layout(trunk_experts="single"), 3),
    "MoE, FP8": (SMALL, FP8, 1),
    "dense": (DENSE, Layout(), 1),
    "dense, tied, equal heads": (replace(DENSE, tied=True, key_heads=4), Layout(), 1),
    "flat, F16, without MTP": (replace(DENSE, mtp=False), Layout("F16", flat=True), 1),
    "three value heads a key head": (replace(SMALL, value_heads=6), Layout(), 1),
    "yarn": (replace(SMALL, yarn=True), Layout(), 1),
}


@pytest.mark.parametrize("name", RUNNABLE)
def test_libllama_runs_the_converted_model(name: str, tmp_path: Path) -> None:
    model, layout, shards = RUNNABLE[name]
    source = checkpoints.make(tmp_path / "source", model, layout, shards=shards)
    converted(source, tmp_path / "out.gguf", "Q8_0")
    found = logits(tmp_path / "out.gguf", [PROMPT], tmp_path)[0]
    assert found.shape == (len(PROMPT), model.vocabulary)
    assert np.isfinite(found).all()
    assert found.std() > 0


def test_split_files_respect_the_size_limit_and_load(toy: Path, tmp_path: Path) -> None:
    whole = converted(toy, tmp_path / "whole.gguf", "Q8_0", vision=False)
    limit = 3_000_000
    plan = converted(toy, tmp_path / "toy.gguf", "Q8_0", vision=False, split_bytes=limit)
    paths = [file.path for file in plan.files]
    count = math.ceil(whole.n_bytes / limit)
    assert count <= len(paths) <= count + 1
    assert [path.name for path in paths] == [f"toy-{n + 1:05d}-of-{len(paths):05d}.gguf" for n in range(len(paths))]
    assert max(path.stat().st_size for path in paths) <= limit
    joined = {name: tensor for path in paths for name, tensor in tensors(path).items()}
    assert joined == tensors(tmp_path / "whole.gguf")
    one, several = (logits(path, [PROMPT], tmp_path)[0] for path in (tmp_path / "whole.gguf", paths[0]))
    assert np.array_equal(one, several)


def test_split_files_have_the_split_metadata_of_llama_cpp(toy: Path, tmp_path: Path) -> None:
    plan = converted(toy, tmp_path / "toy.gguf", "Q8_0", vision=False, split_bytes=3_000_000)
    n_tensors = sum(len(file.tensors) for file in plan.files)
    for number, file in enumerate(plan.files):
        keys = metadata(file.path)
        assert {key: value for key, value in keys.items() if key.startswith("split.")} == {
            "split.no": [["UINT16"], number],
            "split.count": [["UINT16"], len(plan.files)],
            "split.tensors.count": [["INT32"], n_tensors],
        }
        assert ("general.architecture" in keys) == (number == 0)
