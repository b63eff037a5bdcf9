"""Token bytes match the reference tokenizer and are complete at any length."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer

from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan
from tests.support.own_process import late

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

llama = late("llama_cpp.llama_cpp")
TokenBytes = late("qwenctl.engine.llama.tokenizer:TokenBytes")


@pytest.mark.own_process
def test_token_bytes_match_the_reference_tokenizer(toy_model: LoadedModel, toy: Path) -> None:
    reference = Tokenizer.from_file(str(toy / "tokenizer.json"))
    added = reference.get_added_tokens_decoder()
    control = {token for token, text in added.items() if text.special or text.content.startswith("<|")}
    for token in range(reference.get_vocab_size()):
        expected = b"" if token in control else _bytes_of(reference, token)
        assert toy_model.token_bytes[token] == expected, token


def _bytes_of(reference: Tokenizer, token: int) -> bytes:
    """The bytes of a token by GPT-2's table of printable characters (`bytes_to_unicode`)."""
    text = reference.id_to_token(token)
    if token in reference.get_added_tokens_decoder():
        return text.encode()
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}
    return bytes(table[character] for character in text)


@pytest.mark.own_process
@pytest.mark.parametrize("length", [31, 32, 33, 64, 65, 1000])
def test_token_bytes_are_complete_at_any_length(toy: Path, tmp_path: Path, length: int) -> None:
    """llama-cpp-python's own class drops tokens longer than 32 bytes."""
    params = llama.llama_model_default_params()
    params.vocab_only = True
    path = _with_token(toy, tmp_path, "#" * length)
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    assert TokenBytes(llama.llama_model_get_vocab(model))[_FREE_ID] == b"#" * length
    llama.llama_model_free(model)


_FREE_ID = 1982  # the toy's vocabulary has two more rows than tokens


def _with_token(toy: Path, folder: Path, text: str) -> Path:
    """A GGUF file of the toy model with one more token, `text`, in its vocabulary."""
    shutil.copytree(toy, folder / "toy")
    tokenizer = json.loads((toy / "tokenizer.json").read_bytes())
    added = {**tokenizer["added_tokens"][0], "id": _FREE_ID, "content": text, "special": False}
    tokenizer["added_tokens"].append(added)
    (folder / "toy" / "tokenizer.json").write_text(json.dumps(tokenizer))
    convert(make_plan(folder / "toy", folder / "toy.gguf", QuantizeOptions("Q8_0", vision=False)), threads=1)
    return folder / "toy.gguf"
