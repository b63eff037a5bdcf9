"""The tiny model that the check evaluates: the same bytes each time, with the layers of a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantize.gguf_header import GGUFHeader, read_header
from qwenctl.backend_check.tiny_model import VOCABULARY, make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def header(model: Path) -> GGUFHeader:
    return read_header(model)


def test_tiny_model_is_the_same_bytes_each_time(model: Path, tmp_path: Path) -> None:
    assert make_tiny_model(tmp_path).read_bytes() == model.read_bytes()
    assert model.stat().st_size < 10_000_000


def test_tiny_model_has_both_kinds_of_attention_and_experts(header: GGUFHeader) -> None:
    names = [tensor.name for tensor in header.tensors]
    for part in ("attn_q.weight", "ssm_out.weight", "ffn_gate_exps.weight", "ffn_gate_inp.weight"):
        assert any(name.endswith(part) for name in names), part


def test_tiny_model_has_the_vocabulary_that_the_cases_draw_from(header: GGUFHeader) -> None:
    [embeddings] = [tensor for tensor in header.tensors if tensor.name == "token_embd.weight"]
    assert embeddings.shape[-1] == VOCABULARY
