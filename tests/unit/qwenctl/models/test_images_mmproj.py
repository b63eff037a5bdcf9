"""The vision tower is found where it is put: beside the model, of the same name, in the folder above a split model."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.models.mmproj import check_mmproj, find_mmproj


def model(path: Path, name: str = "Toy", width: int = 256) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "qwen35moe")
    writer.add_name(name)
    writer.add_embedding_length(width)
    return written(writer, path)


def tower(path: Path, name: str = "Toy", width: int = 256, projector: str = "qwen3vl_merger") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name(name)
    writer.add_string("clip.projector_type", projector)
    writer.add_uint32("clip.vision.projection_dim", width)
    return written(writer, path)


def written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_one_beside_the_model_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    assert find_mmproj(model(tmp_path / "toy.gguf")) is None
    found = tower(tmp_path / "toy.mmproj-Q8_0.gguf", "another name")
    assert find_mmproj(tmp_path / "toy.gguf") == found


def test_of_several_the_one_of_the_same_name_and_width_is_taken_and_f16_first(tmp_path: Path) -> None:
    tower(tmp_path / "mmproj-a-F16.gguf", "Other")
    tower(tmp_path / "mmproj-b-F16.gguf", "Toy", width=512)
    tower(tmp_path / "mmproj-c-F16.gguf", "Toy", projector="gemma3")
    (tmp_path / "mmproj-d.gguf").write_bytes(b"GGUF and no more")
    for kind in ("F32", "BF16"):
        best = tower(tmp_path / f"mmproj-Toy-{kind}.gguf")
    assert find_mmproj(model(tmp_path / "toy.gguf")) == best
    best = tower(tmp_path / "mmproj-Toy-F16.gguf")
    assert find_mmproj(tmp_path / "toy.gguf") == best


def test_several_that_could_be_meant_are_told(tmp_path: Path) -> None:
    tower(tmp_path / "mmproj-a.gguf", "A")
    tower(tmp_path / "mmproj-b.gguf", "B")
    with pytest.raises(QwenctlError, match=r"several mmproj files match toy\.gguf: choose one") as caught:
        find_mmproj(model(tmp_path / "toy.gguf"))
    assert caught.value.hint == f"--mmproj {tmp_path}/mmproj-a.gguf"


def test_a_split_model_has_it_in_the_folder_above(tmp_path: Path) -> None:
    split = model(tmp_path / "Q4_K_M" / "toy-00001-of-00002.gguf")
    whole = model(tmp_path / "Q8_0" / "toy.gguf")
    found = tower(tmp_path / "mmproj-F16.gguf", "Toy of another spelling")
    assert (find_mmproj(split), find_mmproj(whole)) == (found, None)
    named = tower(tmp_path / "mmproj-Toy.gguf")
    assert (find_mmproj(split), find_mmproj(whole)) == (named, named)


@pytest.mark.parametrize(
    ("projector", "line"), [("gemma3", "x.gguf is not an mmproj file of a Qwen3.5 model"), ("qwen3vl_merger", "")]
)
def test_a_file_that_is_named_is_looked_at(tmp_path: Path, projector: str, line: str) -> None:
    path = tower(tmp_path / "x.gguf", projector=projector)
    if not line:
        assert check_mmproj(path) == path
        return
    with pytest.raises(QwenctlError, match=line) as caught:
        check_mmproj(path)
    assert caught.value.code == ExitCode.BAD_DATA
