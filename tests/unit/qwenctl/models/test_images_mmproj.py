"""Finding the mmproj file of a model: beside it, by name and width, or in the parent folder of a split model."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.loading.model_files import vision_settings
from qwenctl.models.mmproj import check_mmproj, find_mmproj
from qwenctl.protocol.media import VisionSettings


def model(path: Path, name: str = "Toy", width: int = 256) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "qwen35moe")
    writer.add_name(name)
    writer.add_embedding_length(width)
    return write_header(writer, path)


def tower(path: Path, name: str = "Toy", width: int = 256, projector: str = "qwen3vl_merger") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name(name)
    writer.add_string("clip.projector_type", projector)
    writer.add_uint32("clip.vision.projection_dim", width)
    return write_header(writer, path)


def write_header(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_mmproj_beside_model_is_found_under_any_name(tmp_path: Path) -> None:
    assert find_mmproj(model(tmp_path / "toy.gguf")) == ()
    for name in ("toy.mmproj-Q8_0.gguf", "tower.GGUF", "vision-encoder.gguf"):
        found = tower(tmp_path / name, "another name")
        assert find_mmproj(tmp_path / "toy.gguf") == (found,)
        found.unlink()


def test_mmproj_with_same_name_and_width_is_preferred_and_f16_first(tmp_path: Path) -> None:
    tower(tmp_path / "mmproj-a-F16.gguf", "Other")
    tower(tmp_path / "mmproj-b-F16.gguf", "Toy", width=512)
    tower(tmp_path / "mmproj-c-F16.gguf", "Toy", projector="gemma3")
    (tmp_path / "mmproj-d.gguf").write_bytes(b"GGUF and no more")
    for kind in ("F32", "BF16"):
        best = tower(tmp_path / f"mmproj-Toy-{kind}.gguf")
    assert find_mmproj(model(tmp_path / "toy.gguf")) == (best,)
    best = tower(tmp_path / "Toy.mmproj-f16.gguf")
    assert find_mmproj(tmp_path / "toy.gguf") == (best,)


def test_mmproj_files_of_several_other_models_are_listed_once_each(tmp_path: Path) -> None:
    tower(tmp_path / "mmproj-a-F32.gguf", "A")
    found = (tower(tmp_path / "mmproj-a-F16.gguf", "A"), tower(tmp_path / "mmproj-b.gguf", "B"))
    assert find_mmproj(model(tmp_path / "toy.gguf")) == found
    settings = vision_settings(tmp_path / "toy.gguf", None, VisionSettings())
    assert (settings.mmproj, settings.mmproj_choices) == ("", tuple(map(str, found)))
    chosen = vision_settings(tmp_path / "toy.gguf", found[1], settings)
    assert (chosen.mmproj, chosen.mmproj_choices) == (str(found[1]), ())


def test_mmproj_of_split_model_is_found_in_parent_folder(tmp_path: Path) -> None:
    split = model(tmp_path / "Q4_K_M" / "toy-00001-of-00002.gguf")
    whole = model(tmp_path / "Q8_0" / "toy.gguf")
    found = tower(tmp_path / "mmproj-F16.gguf", "Toy of another spelling")
    assert (find_mmproj(split), find_mmproj(whole)) == ((found,), ())
    named = tower(tmp_path / "mmproj-Toy.gguf")
    assert (find_mmproj(split), find_mmproj(whole)) == ((named,), (named,))


@pytest.mark.parametrize(
    ("projector", "line"), [("gemma3", "x.gguf is not an mmproj file of a Qwen3.5 model"), ("qwen3vl_merger", "")]
)
def test_mmproj_named_by_user_is_checked(tmp_path: Path, projector: str, line: str) -> None:
    path = tower(tmp_path / "x.gguf", projector=projector)
    if not line:
        assert check_mmproj(path) == path
        return
    with pytest.raises(QwenctlError, match=line) as caught:
        check_mmproj(path)
    assert caught.value.code == ExitCode.BAD_DATA
