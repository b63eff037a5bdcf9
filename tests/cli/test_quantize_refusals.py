"""`qwenctl quantize` refuses options, outputs and importance matrices with one line, a hint and an exit code."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from quantize.recipe.recipes import RECIPES
from tests.support import checkpoints
from tests.support.cli_runner import outcome, run
from tests.support.gguf_files import tensors
from tests.support.paths import DATA
from tests.support.qwen35_layout import Model

TOY = str(DATA / "toy")
IMATRIX = DATA / "expected" / "imatrix.gguf"
SMALL = Model(experts=0, width=64, hidden=64, vision=None)

# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["--type", "Q4_KM"], "--type: unknown quantization 'Q4_KM'", "nearest: Q4_K_M, Q5_K_M, Q4_K_S"),
        (["--type", "zzz"], "--type: unknown quantization 'zzz'", f"one of {', '.join(RECIPES)}"),
        (
            ["--tensor-type", "attn=q9_0"],
            "unknown tensor type 'q9_0' in --tensor-type 'attn=q9_0'",
            "nearest: Q8_0, Q5_0, Q4_0",
        ),
        (
            ["--tensor-type", "attn"],
            "--tensor-type 'attn' is not PATTERN=TYPE",
            "for example --tensor-type 'ffn_down_exps=q6_k'",
        ),
        (
            ["--tensor-type", "(=q4_k"],
            "--tensor-type '(=q4_k' has a bad pattern: missing ), unterminated subpattern at position 0",
            "",
        ),
        (
            ["--tensor-type", "ffn_dwon=q4_k"],
            "--tensor-type 'ffn_dwon' matches no tensor that can be quantized",
            "--dry-run --json lists the tensors",
        ),
        (["--vision-type", "q8_0"], "--vision-type Q8_0: the vision encoder cannot be that", "f16, bf16 or f32"),
        (
            ["--split-max-size", "48X"],
            "invalid value for '--split-max-size': '48X' is not a size",
            "24G or 24GiB is 24 * 1024^3 bytes, 24GB is 24 * 1000^3; units: K, M, G, T",
        ),
        (
            ["-t", "-1"],
            "invalid value for '-t' / '--threads': -1 is out of range: it must be a whole number of at least 0",
            "qwenctl quantize --help",
        ),
        (["--typ", "Q8_0"], "no such option: --typ", "did you mean --type? `qwenctl quantize --help` lists all"),
    ],
)
def test_invalid_option_is_refused(arguments: list[str], line: str, hint: str, tmp_path: Path) -> None:
    assert outcome("quantize", TOY, "-o", str(tmp_path / "out.gguf"), *arguments) == (line, hint, 2)
    assert not list(tmp_path.iterdir())


def test_missing_source_argument_is_refused() -> None:
    assert outcome("quantize") == ("missing argument 'SRC'", "qwenctl quantize --help", 2)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("3MB", 3_000_000), ("3M", 3 << 20), ("3MiB", 3 << 20), ("0.003gb", 3_000_000), ("3000000", 3_000_000)],
)
def test_split_size_may_be_decimal_or_binary(text: str, n_bytes: int, tmp_path: Path) -> None:
    done = run("quantize", TOY, "-o", str(tmp_path), "--dry-run", "--json", "--no-vision", "--split-max-size", text)
    sizes = [file["bytes"] for file in json.loads(done.stdout)["files"]]
    assert max(sizes) <= n_bytes < max(sizes) + 600_000


# ------------------------------------------------------------------ the output


def test_output_folder_that_does_not_exist_is_created(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "models"
    done = run("quantize", TOY, "-o", f"{folder}/", "--type", "Q8_0", "--no-vision", "-q")
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(path.name for path in folder.iterdir()) == ["qwenctl.lock.json", "toy-Q8_0.gguf"]


def test_output_folder_is_not_left_behind_empty(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    folder = f"{tmp_path}/kept/new/models/"
    done = run("quantize", TOY, "-o", folder, "--no-vision", "--dry-run", "--json")
    assert json.loads(done.stdout)["files"][0]["path"] == f"{folder}toy-Q4_K_M.gguf"
    assert outcome("quantize", TOY, "-o", folder, "--type", "Q2_Z")[2] == 2
    assert list((tmp_path / "kept").iterdir()) == []


def symlink(source: Path, link: Path) -> None:
    link.symlink_to(source)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("make", [None, symlink, os.link], ids=["itself", "symbolic link", "hard link"])
def test_output_that_is_an_input_is_refused(
    name: str, make: Callable[[Path, Path], None] | None, tmp_path: Path
) -> None:
    source = checkpoints.make(tmp_path / "model", SMALL)
    output, before = source / name, (source / name).read_bytes()
    if make:
        output = tmp_path / "out.gguf"
        make(source / name, output)
    line, hint, code = outcome("quantize", str(source), "-o", str(output), "--overwrite")
    assert (line, hint, code) == (f"output would overwrite its own input {output}", "choose another -o", 2)
    assert (source / name).read_bytes() == before


def test_output_that_is_the_importance_matrix_is_refused(tmp_path: Path) -> None:
    shutil.copy(IMATRIX, tmp_path / "i.gguf")
    output = str(tmp_path / "i.gguf")
    line, _, code = outcome("quantize", TOY, "--type", "Q4_0", "--imatrix", output, "-o", output, "--overwrite")
    assert (line, code) == (f"output would overwrite its own input {output}", 2)


def test_existing_output_is_refused_without_overwrite(tmp_path: Path) -> None:
    source, output = checkpoints.make(tmp_path / "model", SMALL), tmp_path / "out.gguf"
    output.write_text("precious")
    line, hint, code = outcome("quantize", str(source), "-o", str(output))
    assert (line, code) == (f"{output} already exists", 73)
    assert output.read_text() == "precious"
    assert run("quantize", str(source), "-o", str(output), *hint.split()[:1]).returncode == 0
    assert tensors(output)


def test_output_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert outcome("quantize", TOY, "-o", f"{missing}/x.gguf") == (
        f"no such folder: {missing}",
        f"mkdir -p {missing}",
        73,
    )
    line, hint, code = outcome("quantize", TOY, "-o", "/dev/null", "--overwrite", "--no-vision")
    assert (line, hint, code) == ("/dev/null is not a regular file", "give -o the name of a file", 73)
    assert Path("/dev/null").is_char_device()


def test_output_in_a_read_only_folder_is_refused() -> None:
    line, hint, code = outcome("quantize", TOY, "-o", "/proc/x.gguf", "--no-vision")
    assert line.startswith("cannot write to /proc: ")
    assert (hint, code) == ("-o in another folder", 73)


def test_existing_mmproj_of_the_same_model_is_accepted(tmp_path: Path) -> None:
    for name in ("Q8_0", "Q4_0"):
        done = run("quantize", TOY, "-o", str(tmp_path), "--type", name)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mmproj-toy-F16.gguf", "qwenctl.lock.json", "toy-Q4_0.gguf", "toy-Q8_0.gguf"
    ]  # fmt: skip


# ------------------------------------------------------------------ importance matrices


def modified_imatrix(source: Path, target: Path, change: Callable[[dict[str, np.ndarray]], None]) -> str:
    """Write a copy of the importance matrix `source` with tensors that `change` has modified; return its path."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["x"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 256)
    arrays = {tensor.name: tensor.data for tensor in reader.tensors}
    change(arrays)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(target)


def refusal(tmp_path: Path, type_name: str, *arguments: str) -> tuple[str, str, int]:
    result = outcome("quantize", TOY, "-o", str(tmp_path / "out.gguf"), "--no-vision", "--type", type_name, *arguments)
    assert not list(tmp_path.glob("out.gguf*"))
    return result


@pytest.mark.parametrize("type_name", ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS"])
def test_type_that_needs_an_importance_matrix_is_refused_without_one(type_name: str, tmp_path: Path) -> None:
    line, hint, code = refusal(tmp_path, type_name)
    assert re.fullmatch(rf"{type_name} needs an importance matrix \(\d+ tensors, the first is blk\.\d+\.\S+\)", line)
    assert hint == "--imatrix FILE (made with llama-imatrix), or a quantization that needs none: IQ4_XS, Q3_K_M, Q2_K"
    assert code == 65


@pytest.mark.slow
@pytest.mark.parametrize("type_name", ["IQ2_XXS"])
def test_importance_matrix_without_mtp_data_suggests_another_type(type_name: str, tmp_path: Path) -> None:
    line, hint, code = refusal(tmp_path, type_name, "--imatrix", str(IMATRIX))
    assert line.startswith("imatrix.gguf has no data for blk.4.")
    assert line.endswith(f", which {type_name} requires")
    assert code == 65
    flags = shlex.split(hint.split(" gives ")[0])
    output = tmp_path / "out.gguf"
    arguments = ["-o", str(output), "--no-vision", "--type", type_name, "--imatrix", str(IMATRIX), *flags]
    assert run("quantize", TOY, *arguments).returncode == 0
    kinds = {name: kind for name, (kind, _, _) in tensors(output).items()}
    assert kinds["blk.4.ffn_up_exps.weight"] == "Q4_K"
    assert kinds["blk.0.ffn_up_exps.weight"] == type_name


def narrow_tensor(arrays: dict[str, np.ndarray]) -> None:
    name = "blk.0.attn_qkv.weight.in_sum2"
    arrays[name] = arrays[name][:128]


def rename_tensors(arrays: dict[str, np.ndarray]) -> None:
    for name in list(arrays):
        arrays[f"other.{name}"] = arrays.pop(name)


def remove_counts(arrays: dict[str, np.ndarray]) -> None:
    del arrays["blk.0.attn_qkv.weight.counts"]


def make_infinite(arrays: dict[str, np.ndarray]) -> None:
    arrays["blk.0.attn_qkv.weight.in_sum2"] = arrays["blk.0.attn_qkv.weight.in_sum2"] * np.float32(np.inf)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (narrow_tensor, "was made for another model: [1, 128] values for blk.0.attn_qkv.weight, [1, 256] needed"),
        (rename_tensors, "was made for another model: it covers none of the tensors"),
        (remove_counts, "has no usable counts for blk.0.attn_qkv.weight"),
        (make_infinite, "has values for blk.0.attn_qkv.weight that are not finite"),
    ],
)
def test_unsuitable_importance_matrix_is_refused(
    change: Callable[[dict[str, np.ndarray]], None], line: str, tmp_path: Path
) -> None:
    path = modified_imatrix(IMATRIX, tmp_path / "i.gguf", change)
    assert refusal(tmp_path, "Q4_0", "--imatrix", path)[::2] == (f"i.gguf {line}", 65)


def test_file_that_is_not_an_importance_matrix_is_refused(toy_gguf: Path, tmp_path: Path) -> None:
    line, hint, code = refusal(tmp_path, "Q4_0", "--imatrix", str(toy_gguf))
    assert line == f"{toy_gguf.name} is not an importance matrix in GGUF format"
    assert (hint, code) == ("make one with llama-imatrix", 65)
    assert refusal(tmp_path, "Q4_0", "--imatrix", f"{tmp_path}/none")[::2] == (f"no such file: {tmp_path}/none", 66)


def test_unused_expert_is_quantized_with_uniform_importance(tmp_path: Path) -> None:
    def zero(arrays: dict[str, np.ndarray]) -> None:
        arrays["blk.0.ffn_up_exps.weight.counts"] = arrays["blk.0.ffn_up_exps.weight.counts"] * 0
        arrays["blk.0.ffn_up_exps.weight.in_sum2"] = arrays["blk.0.ffn_up_exps.weight.in_sum2"] * 0

    def uniform(arrays: dict[str, np.ndarray]) -> None:
        arrays["blk.0.ffn_up_exps.weight.counts"] = np.ones_like(arrays["blk.0.ffn_up_exps.weight.counts"])
        arrays["blk.0.ffn_up_exps.weight.in_sum2"] = np.ones_like(arrays["blk.0.ffn_up_exps.weight.in_sum2"])

    outputs = []
    for number, change in enumerate((zero, uniform)):
        path, output = modified_imatrix(IMATRIX, tmp_path / f"{number}.gguf", change), tmp_path / f"out{number}.gguf"
        assert (
            run("quantize", TOY, "-o", str(output), "--no-vision", "--type", "Q4_0", "--imatrix", path).returncode == 0
        )
        outputs.append(tensors(output))
    assert outputs[0] == outputs[1]
