"""What a GGUF file is: by its header, and by its name where no header can be read."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.models.gguf_kind import is_doubtful, kind_from_metadata, kind_from_name, mmproj_rank, read_kind

WORDS = st.lists(st.sampled_from(["Qwen3.5", "35B", "A3B", "Q8_0", "BF16", "finetune", "v1"]), min_size=1, max_size=4)
SEPARATORS = st.sampled_from("-_. ")


@given(before=WORDS, after=WORDS, separator=SEPARATORS, word=st.sampled_from(["mmproj", "MMPROJ", "mmProj"]))
def test_mmproj_as_a_word_anywhere_in_a_name_is_a_vision_encoder(
    before: list[str], after: list[str], separator: str, word: str
) -> None:
    for words in ([word, *after], [*before, word], [*before, word, *after]):
        assert kind_from_name(f"folder/{separator.join(words)}.gguf") == "mmproj"


@given(before=WORDS, after=WORDS, separator=SEPARATORS)
def test_imatrix_as_a_word_anywhere_in_a_name_is_a_matrix(before: list[str], after: list[str], separator: str) -> None:
    for words in (["imatrix", *after], [*before, "imatrix"], [*before, "imatrix", *after]):
        assert kind_from_name(f"{separator.join(words)}.gguf") == "imatrix"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("Qwen3.5-35B-A3B-mmproj-BF16.gguf", "mmproj"),
        ("Model.mmproj-Q8_0.gguf", "mmproj"),
        ("imatrix_unsloth.gguf", "imatrix"),
        ("Name.imatrix.gguf", "imatrix"),
        ("Name-BF16-imatrix.gguf", "imatrix"),
        ("mtp-Name.gguf", "mtp"),
        ("Name-MTP-Q4_K_M.gguf", "model"),
        ("imatrix/Name-Q4_K_M.gguf", "model"),
        ("Name-IQ4_XS-imatrix.gguf", "model"),
        ("mmprojector/Name-Q8_0.gguf", "model"),
        ("multimatrix-Q8_0.gguf", "model"),
    ],
)
def test_kind_of_published_names(path: str, kind: str) -> None:
    assert kind_from_name(path) == kind


def test_name_of_a_model_made_with_a_matrix_is_doubtful() -> None:
    assert is_doubtful("Name-IQ4_XS-imatrix.gguf")
    assert not is_doubtful("Name-IQ4_XS.gguf")
    assert not is_doubtful("Name-imatrix.gguf")


def write(path: Path, architecture: str, general_type: str = "") -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    if general_type:
        writer.add_type(general_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", ["x.gguf", "mmproj-x.gguf", "x-imatrix.gguf", "x-Q8_0.gguf"])
def test_header_decides_whatever_the_name_says(tmp_path: Path, name: str) -> None:
    assert read_kind(write(tmp_path / name, "clip")) == "mmproj"
    assert read_kind(write(tmp_path / name, "qwen35moe")) == "model"
    assert read_kind(write(tmp_path / name, "imatrix", "imatrix")) == "imatrix"
    (tmp_path / name).write_bytes(b"no header")
    assert read_kind(tmp_path / name) == kind_from_name(name)


def test_separate_head_keeps_its_kind_although_its_header_is_that_of_a_model(tmp_path: Path) -> None:
    assert read_kind(write(tmp_path / "mtp-x.gguf", "qwen35moe")) == "mtp"


def test_header_without_an_architecture_says_nothing() -> None:
    assert kind_from_metadata({"split.no": 1}) is None
    assert kind_from_metadata({"general.type": "imatrix"}) == "imatrix"


def test_f16_is_preferred_wherever_the_name_has_it() -> None:
    names = ["a-mmproj-f16.gguf", "mmproj.BF16.gguf", "mmproj-F32.gguf", "mmproj-Q8_0.gguf"]
    assert sorted(names, key=mmproj_rank) == names
    assert mmproj_rank("mmproj-BF16.gguf") == 1
