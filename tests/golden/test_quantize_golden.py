"""The toy checkpoint is converted to the same bytes as by llama.cpp's own converter and quantizer."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest

from quantize.ggml.types import GGML_TYPES
from quantize.recipe.recipes import RECIPES, Recipe
from tests.support.gguf_files import converted, metadata, tensors
from tests.support.paths import DATA

EXPECTED = DATA / "expected"
TENSORS = sorted(path.stem for path in (EXPECTED / "tensors").glob("*.json"))
TEXT = [name for name in TENSORS if not name.startswith("mmproj-")]
VISION = [name.removeprefix("mmproj-") for name in TENSORS if name.startswith("mmproj-")]
# llama-quantize refuses these: an importance matrix of the trunk has no data for the MTP block.
REFUSED = {"IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"}


def expected(name: str) -> dict[str, list[object]]:
    found: dict[str, list[object]] = json.loads((EXPECTED / "tensors" / f"{name}.json").read_text())
    return found


def test_golden_data_covers_every_type_of_llama_cpp() -> None:
    assert {name.removesuffix("+imatrix") for name in TEXT} | REFUSED == set(RECIPES)


@pytest.mark.parametrize("name", TEXT)
def test_every_tensor_matches_llama_cpp(name: str, toy: Path, tmp_path: Path) -> None:
    type_name, _, with_imatrix = name.partition("+")
    imatrix = EXPECTED / "imatrix.gguf" if with_imatrix else None
    converted(toy, tmp_path / "toy.gguf", type_name, imatrix=imatrix, vision=False)
    assert tensors(tmp_path / "toy.gguf") == expected(name)


@pytest.mark.parametrize("vision_type", VISION)
def test_vision_encoder_matches_llama_cpp(vision_type: str, toy: Path, tmp_path: Path) -> None:
    plan = converted(toy, tmp_path / "toy.gguf", vision_type=vision_type)
    assert tensors(plan.vision_files[0].path) == expected(f"mmproj-{vision_type}")


@pytest.mark.parametrize("part", ["text", "mmproj"])
def test_metadata_matches_llama_cpp(part: str, toy: Path, tmp_path: Path) -> None:
    plan = converted(toy, tmp_path / "toy.gguf", "BF16", vision_type="F16", tool_version="1.2.3")
    made = metadata((plan.text_files if part == "text" else plan.vision_files)[0].path)
    wanted = json.loads((EXPECTED / "metadata.json").read_text())[part]
    assert {key: value for key, value in made.items() if key in wanted} == wanted
    assert set(made) - set(wanted) == {"general.name", "qwenctl.source", "qwenctl.recipe", "qwenctl.version"}


def test_imatrix_metadata_matches_llama_cpp(toy: Path, tmp_path: Path) -> None:
    converted(toy, tmp_path / "toy.gguf", "Q4_0", imatrix=EXPECTED / "imatrix.gguf", vision=False)
    made = metadata(tmp_path / "toy.gguf")
    assert {key: value for key, value in made.items() if key.startswith("quantize.")} == {
        "quantize.imatrix.file": [["STRING"], "imatrix.gguf"],
        "quantize.imatrix.dataset": [["STRING"], "calibration.txt"],
        "quantize.imatrix.entries_count": [["UINT32"], 51],
        "quantize.imatrix.chunks_count": [["UINT32"], 40],
    }


@pytest.mark.parametrize("name", GGML_TYPES)
def test_ggml_type_number_and_block_size_match_gguf(name: str) -> None:
    kind, theirs = GGML_TYPES[name], gguf.GGMLQuantizationType[name]
    assert (kind.id, (kind.block_elements, kind.block_bytes)) == (theirs.value, gguf.GGML_QUANT_SIZES[theirs])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_file_type_number_matches_gguf(recipe: Recipe) -> None:
    names = {theirs.name.replace("MOSTLY_", "").replace("ALL_", ""): theirs.value for theirs in gguf.LlamaFileType}
    assert recipe.file_type == names[recipe.name]
