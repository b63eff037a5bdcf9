"""Checkpoints that other tools wrote are named for what they are; those that can be read are converted."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantize.convert import convert
from quantize.errors import QuantizeError
from quantize.plan import QuantizeOptions, make_plan
from quantize.row_chunks import power_of_two_values
from tests.support import checkpoints
from tests.support.checkpoints import Arrays
from tests.support.gguf_files import tensors
from tests.support.qwen35_layout import FP8, Layout, Model, config, specs

SMALL = Model(experts=0, width=64, hidden=64, vision=None)
MOE = Model(layers=4, experts=3, hidden=256, width=160, shared_width=128, vision=None, mtp=False)
QUERY = "model.language_model.layers.3.self_attn.q_proj."
FP8_SETTINGS = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def refusal(folder: Path) -> tuple[str, str]:
    with pytest.raises(QuantizeError) as caught:
        make_plan(folder, folder.parent / "out.gguf", QuantizeOptions("F32"))
    assert "download" not in caught.value.hint or "BF16" in caught.value.hint or "FP8" in caught.value.hint
    return caught.value.message, caught.value.hint


def make(folder: Path, change: Callable[[Arrays], object] = lambda _: None, **keys: object) -> Path:
    arrays = checkpoints.random_arrays(specs(SMALL, Layout()), seed=0)
    change(arrays)
    return checkpoints.save(folder, config(SMALL, Layout()) | keys, arrays)


def replace_query(**more: tuple[type[Any], tuple[int, ...]]) -> Callable[[Arrays], object]:
    """Replace a matrix by other tensors: suffix to dtype and shape."""

    def change(arrays: Arrays) -> None:
        del arrays[QUERY + "weight"]
        arrays.update(
            {QUERY + suffix.replace("__", "."): np.zeros(shape, kind) for suffix, (kind, shape) in more.items()}
        )

    return change


BF16, E4M3 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
MLX = replace_query(weight=(np.uint32, (512, 8)), scales=(BF16, (512, 1)), biases=(BF16, (512, 1)))
GPTQ = replace_query(qweight=(np.int32, (8, 512)), qzeros=(np.int32, (1, 64)), scales=(np.float16, (1, 512)),
                     g_idx=(np.int32, (64,)))  # fmt: skip
AWQ = replace_query(qweight=(np.int32, (64, 64)), qzeros=(np.int32, (1, 64)), scales=(np.float16, (1, 512)))
NVFP4 = replace_query(weight=(np.uint8, (512, 32)), weight_scale=(E4M3, (512, 4)), weight_scale_2=(np.float32, ()))
BNB = replace_query(weight=(np.uint8, (16384, 1)), weight__absmax=(np.uint8, (512,)))
PACKED = replace_query(weight_packed=(np.int32, (512, 8)), weight_scale=(BF16, (512, 1)), weight_shape=(np.int32, (2,)))
CHANNELS = replace_query(weight=(E4M3, (512, 64)), weight_scale=(BF16, (512, 1)))
MXFP4 = replace_query(weight_blocks=(np.uint8, (512, 2, 16)), weight_scales=(np.uint8, (512, 2)))
LORA = replace_query(weight=(np.float32, (512, 64)), lora_A__weight=(np.float32, (4, 64)))


@pytest.mark.parametrize(
    ("change", "settings", "label"),
    [
        (GPTQ, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"), (GPTQ, {}, "GPTQ"),
        (AWQ, {"quantization_config": {"quant_method": "awq"}}, "AWQ"), (AWQ, {}, "AWQ"),
        (AWQ, {"quantization_config": {"quant_method": "auto-round"}}, "AutoRound"),
        (NVFP4, {"quantization_config": {"quant_method": "modelopt"}}, "NVFP4"), (NVFP4, {}, "NVFP4"),
        (BNB, {"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"), (BNB, {}, "bitsandbytes"),
        (PACKED, {"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        (CHANNELS, {"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        (CHANNELS, {}, "FP8 with a scale for each channel or tensor"), (MXFP4, {}, "MXFP4"),
        (replace_query(weight=(E4M3, (512, 64))), {"quantization_config": {"quant_method": "fp8"}},
         "FP8 without weight_block_size"),
    ],
)  # fmt: skip
def test_quantized_checkpoint_is_named_by_its_tool(
    change: Callable[[Arrays], object], settings: dict[str, object], label: str, tmp_path: Path
) -> None:
    line, hint = refusal(make(tmp_path / "model", change, **settings))
    assert line == f"the checkpoint is already quantized ({label}); BF16, F16, F32 and block-scaled FP8 can be read"
    assert hint == "start from the BF16 or the FP8 repository of the same model"


def test_checkpoint_by_modelopt_without_quantization_config_is_named_by_its_own_file(tmp_path: Path) -> None:
    source = make(tmp_path / "model", NVFP4)
    (source / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    assert "(NVFP4, by ModelOpt)" in refusal(source)[0]


def test_mlx_checkpoint_is_named(tmp_path: Path) -> None:
    bits: dict[str, object] = {"quantization": {"group_size": 64, "bits": 4}}
    line = "this is an MLX checkpoint quantized to 4 bits, which cannot be read"
    hint = "start from the BF16 or the FP8 repository of the same model"
    assert refusal(make(tmp_path / "model", MLX, **bits, quantization_config=bits["quantization"])) == (line, hint)


def test_16_bit_mlx_checkpoint_is_named(tmp_path: Path) -> None:
    source = make(tmp_path / "model")
    data = (source / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps({"__metadata__": {"format": "mlx"}, **json.loads(data[8 : 8 + length])}).encode()
    (source / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert refusal(source)[0] == "this is an MLX checkpoint, which cannot be read"


@pytest.mark.parametrize("kind", ["tensors", "file", "config"])
def test_lora_adapter_is_named(kind: str, tmp_path: Path) -> None:
    source = make(tmp_path / "model", LORA if kind == "tensors" else lambda _: None)
    if kind != "tensors":
        (source / "model.safetensors").rename(source / "adapter_model.safetensors")
    if kind == "config":
        (source / "config.json").rename(source / "adapter_config.json")
    line, hint = refusal(source)
    assert line.endswith(" is a LoRA adapter, not a model")
    assert hint.startswith("merge it into its base model")


def test_weights_in_another_format_are_named(tmp_path: Path) -> None:
    source = make(tmp_path / "model")
    (source / "model.safetensors").rename(source / "pytorch_model-00001-of-00001.bin")
    line, hint = refusal(source)
    assert line.endswith("no safetensors file, but weights in PyTorch's format (pytorch_model-00001-of-00001.bin)")
    assert hint.startswith("save it with transformers as safetensors")
    next(source.glob("*.bin")).rename(source / "x-Q8_0.gguf")
    assert refusal(source)[1] == f"qwenctl chat -m {source / 'x-Q8_0.gguf'}"


@pytest.mark.parametrize(
    ("kind", "name"), [(np.bool_, "BOOL"), (np.uint16, "U16"), (np.uint32, "U32"), (ml_dtypes.float8_e5m2, "F8_E5M2")]
)
def test_weights_of_another_dtype_are_named(kind: type[Any], name: str, tmp_path: Path) -> None:
    line, hint = refusal(make(tmp_path / "model", replace_query(weight=(kind, (512, 64)))))
    assert line.startswith(f"layers.3.self_attn.q_proj.weight has the type {name}; BF16, F16, F32 and block-scaled FP8")
    assert hint == "start from the BF16 or the FP8 repository of the same model"


def test_config_by_model_type_only_is_read(tmp_path: Path) -> None:
    source = make(tmp_path / "model", architectures=None, model_type="qwen3_5")
    assert make_plan(source, tmp_path / "out.gguf", QuantizeOptions("F32")).config.architecture == "qwen35"


# ------------------------------------------------------------------ FP8


def fp8_arrays() -> Arrays:
    """An FP8 checkpoint with one tensor for each expert."""
    return checkpoints.random_arrays(specs(MOE, FP8), seed=3)


def packed(arrays: Arrays) -> Arrays:
    """The same with the experts of a block in two 3-D tensors, and their scales too."""
    result = {name: array for name, array in arrays.items() if ".experts." not in name}
    blocks = {name.split(".experts.")[0] for name in arrays if ".experts." in name}
    for block in blocks:
        for suffix in ("", "_scale_inv"):
            parts = {
                part: [arrays[f"{block}.experts.{number}.{part}_proj.weight{suffix}"] for number in range(MOE.experts)]
                for part in ("gate", "up", "down")
            }
            both = [np.concatenate(pair) for pair in zip(parts["gate"], parts["up"], strict=True)]
            result[f"{block}.experts.gate_up_proj{suffix}"] = np.stack(both)
            result[f"{block}.experts.down_proj{suffix}"] = np.stack(parts["down"])
    return result


def converted(folder: Path, arrays: Arrays, **keys: object) -> dict[str, Any]:
    settings = copy.deepcopy(config(MOE, FP8)) | keys
    plan = make_plan(checkpoints.save(folder, settings, arrays), folder / "out.gguf", QuantizeOptions("F32"))
    convert(plan, 2)
    return dict(tensors(folder / "out.gguf"))


def test_packed_fp8_experts_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    model = Model(layers=4, experts=3, hidden=256, width=128, shared_width=128, vision=None, mtp=False)
    arrays = checkpoints.random_arrays(specs(model, FP8), seed=3)
    settings = config(model, FP8)
    found = []
    for name, weights in (("single", arrays), ("packed", packed(arrays))):
        source = checkpoints.save(tmp_path / name, settings, weights)
        convert(make_plan(source, tmp_path / f"{name}.gguf", QuantizeOptions("F32")), 2)
        found.append(dict(tensors(tmp_path / f"{name}.gguf")))
    assert found[0] == found[1]


def test_scales_that_are_powers_of_two_give_what_they_give_in_float32(tmp_path: Path) -> None:
    codes = np.random.default_rng(5)
    arrays, same = fp8_arrays(), fp8_arrays()
    for name, array in arrays.items():
        if name.endswith("_scale_inv"):
            exponents = codes.integers(-12, 3, array.shape)
            arrays[name] = (exponents + 127).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)
            same[name] = np.ldexp(np.float32(1), exponents).astype(np.float32)
    assert converted(tmp_path / "e8m0", arrays) == converted(tmp_path / "f32", same)


def test_power_of_two_values_match_ml_dtypes() -> None:
    wanted = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(power_of_two_values(), wanted, equal_nan=True)


def test_fp8_without_its_config_says_so(tmp_path: Path) -> None:
    settings = config(MOE, FP8)
    del settings["quantization_config"]
    line, hint = refusal(checkpoints.save(tmp_path / "model", settings, fp8_arrays()))
    assert " is FP8, but config.json has no quantization_config" in line
    assert hint.startswith("download config.json of the FP8 repository again")
