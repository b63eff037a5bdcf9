"""Tokens become text: whole characters, thinking apart from the answer, no byte lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan
from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.protocol.messages import TextDelta
from tests.own_process import late

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

llama = late("llama_cpp.llama_cpp")
TokenBytes = late("qwenctl.engine.llama.tokens:TokenBytes")

END = 256  # the token that closes the thinking; all others are single bytes
BYTES = {token: bytes([token]) for token in range(256)}


def told(data: bytes, *, thinking: bool) -> list[TextDelta]:
    """What an answer of these bytes says; the byte 0xff stands for the end of the thinking."""
    text = StreamingDetokenizer(BYTES, END, thinking=thinking)
    output = [token for byte in data for token in text.feed(END if byte == 0xFF else byte)]
    assert sum(text.tokens.values()) == len(data)
    return output + text.finish()


def joined(output: list[TextDelta], channel: str) -> str:
    return "".join(token.text for token in output if token.channel == channel)


@given(st.text(), st.text())
def test_thinking_and_answer_come_out_whole_and_apart(thought: str, answer: str) -> None:
    output = told(f"\n{thought}\n".encode() + b"\xff\n\n" + answer.encode(), thinking=True)
    assert joined(output, "thinking") == thought.strip()
    assert joined(output, "answer") == answer.lstrip()


@given(st.text())
def test_without_thinking_all_of_it_is_the_answer(answer: str) -> None:
    assert joined(told(answer.encode(), thinking=False), "answer") == answer.lstrip()


@given(st.binary())
def test_bytes_that_are_no_text_become_replacement_characters(data: bytes) -> None:
    data = data.replace(b"\xff", b"\xfe")
    assert joined(told(data, thinking=False), "answer") == data.decode("utf-8", "replace").lstrip()


@given(st.text())
def test_every_piece_is_at_least_one_whole_character(answer: str) -> None:
    assert all(token.text and token.text.encode() for token in told(answer.encode(), thinking=False))


def test_a_thought_that_never_ends_is_no_answer() -> None:
    output = told("hm … ".encode()[:-2], thinking=True)
    assert (joined(output, "thinking"), joined(output, "answer")) == ("hm \N{REPLACEMENT CHARACTER}", "")


@pytest.mark.own_process
def test_the_bytes_of_every_token_are_those_of_the_reference_tokenizer(toy_model: LoadedModel, toy: Path) -> None:
    reference = Tokenizer.from_file(str(toy / "tokenizer.json"))
    added = reference.get_added_tokens_decoder()
    control = {token for token, text in added.items() if text.special or text.content.startswith("<|")}
    for token in range(reference.get_vocab_size()):
        expected = b"" if token in control else _bytes_of(reference, token)
        assert toy_model.token_bytes[token] == expected, token


def _bytes_of(reference: Tokenizer, token: int) -> bytes:
    """By GPT-2's table from bytes to printable characters (`bytes_to_unicode`)."""
    text = reference.id_to_token(token)
    if token in reference.get_added_tokens_decoder():
        return text.encode()
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}
    return bytes(table[character] for character in text)


@pytest.mark.own_process
@pytest.mark.parametrize("length", [31, 32, 33, 64, 65, 1000])
def test_a_token_of_any_length_has_all_its_bytes(toy: Path, tmp_path: Path, length: int) -> None:
    """llama-cpp-python's own class drops those above 32 bytes."""
    params = llama.llama_model_default_params()
    params.vocab_only = True
    path = _with_token(toy, tmp_path, "#" * length)
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    assert TokenBytes(llama.llama_model_get_vocab(model))[_FREE_ID] == b"#" * length
    llama.llama_model_free(model)


_FREE_ID = 1982  # the toy's vocabulary has two more rows than tokens


def _with_token(toy: Path, folder: Path, text: str) -> Path:
    """The toy with one more token in its vocabulary, as GGUF."""
    shutil.copytree(toy, folder / "toy")
    tokenizer = json.loads((toy / "tokenizer.json").read_bytes())
    added = {**tokenizer["added_tokens"][0], "id": _FREE_ID, "content": text, "special": False}
    tokenizer["added_tokens"].append(added)
    (folder / "toy" / "tokenizer.json").write_text(json.dumps(tokenizer))
    convert(make_plan(folder / "toy", folder / "toy.gguf", QuantizeOptions("Q8_0", vision=False)), threads=1)
    return folder / "toy.gguf"
