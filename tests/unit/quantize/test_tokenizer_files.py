"""The vocabulary is what transformers makes of all tokenizer files; files that contradict each other are not silent."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from quantize.errors import BadCheckpoint, MissingInput
from quantize.qwen35.vocabulary import Vocabulary, read_vocabulary
from tests.support.paths import TOY

SIZE, FREE = 1984, 1982  # ids that the toy's model has, and the first that has no token
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "config.json", "chat_template.jinja")
CONFIG = json.loads((TOY / "tokenizer_config.json").read_bytes())
TOKENIZER = json.loads((TOY / "tokenizer.json").read_bytes())


def folder_with(folder: Path, changes: Mapping[str, Any]) -> Path:
    """The toy's tokenizer files; `changes` has the new JSON of a file, or None for none."""
    folder.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copy(TOY / name, folder)
    for name, value in changes.items():
        (folder / name).unlink(missing_ok=True)
        if value is not None:
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def vocabulary(folder: Path, changes: Mapping[str, Any]) -> Vocabulary:
    return read_vocabulary(folder_with(folder / "x", changes), SIZE)


def with_token(number: int, content: str, *, special: bool = False) -> dict[str, Any]:
    """tokenizer_config.json with one more entry in its added_tokens_decoder."""
    entry = {"content": content, "special": special, "normalized": False}
    return {**CONFIG, "added_tokens_decoder": {**CONFIG["added_tokens_decoder"], str(number): entry}}


def test_toy_has_no_notes(tmp_path: Path) -> None:
    assert vocabulary(tmp_path, {}).notes == ()


def test_vocab_and_merges_without_tokenizer_json_give_the_same(tmp_path: Path) -> None:
    plain, slow = vocabulary(tmp_path, {}), vocabulary(tmp_path, {"tokenizer.json": None})
    assert (slow.tokens, slow.types) == (plain.tokens, plain.types)
    assert slow.special.merges == plain.special.merges
    assert slow.special.special_token_ids == plain.special.special_token_ids


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([FREE, 1956, 1970, 70, FREE + 1]),
    st.sampled_from(["<new>", "<|new|>", "<tool_call>", "<|endoftext|>", "a"]),
    st.booleans(),
)
def test_added_token_of_tokenizer_config_is_as_the_tokenizers_library_adds_it_or_refused(
    number: int, content: str, special: bool
) -> None:
    reference = Tokenizer.from_file(str(TOY / "tokenizer.json"))
    reference.add_tokens([AddedToken(content, special=special, normalized=False)])
    id_of_reference = reference.token_to_id(content)
    before = Tokenizer.from_file(str(TOY / "tokenizer.json")).id_to_token(number)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = vocabulary(Path(folder), {"tokenizer_config.json": with_token(number, content, special=special)})
        except BadCheckpoint:
            assert id_of_reference != number or before not in (None, content)
            return
    assert id_of_reference == number
    assert found.tokens[number] == content
    is_control = special or content.startswith("<|") or content in CONFIG.get("additional_special_tokens", ())
    assert (found.types[number].name == "CONTROL") == is_control
    assert bool(found.notes) == (content not in TOKENIZER["model"]["vocab"] and before is None) or "special" in str(
        found.notes
    )


LEGACY = {key: value for key, value in CONFIG.items() if key != "added_tokens_decoder"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokenizer_config.json": {**LEGACY}, "added_tokens.json": {"<tool_call>": 5}},
            "gives '<tool_call>' the id 5",
        ),
        ({"tokenizer_config.json": {**LEGACY}, "added_tokens.json": {"<new>": 70}}, "says that 70 is '<new>'"),
        ({"tokenizer_config.json": {**LEGACY}, "added_tokens.json": {"<new>": 1983}}, "transformers gives it 1982"),
        ({"tokenizer_config.json": {**LEGACY}, "added_tokens.json": {"<new>": "x"}}, "'x' is no token id"),
        ({"tokenizer.json": {**TOKENIZER, "added_tokens": [{"id": 3, "content": "<x>"}]}}, "two tokens the id 3"),
        ({"tokenizer.json": {**TOKENIZER, "added_tokens": [{"id": 1990, "content": "a"}]}}, "two tokens the same text"),
        ({"tokenizer.json": None, "vocab.json": {"a": 1, "b": 1}}, "vocab.json gives two tokens the same id"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": {"content": "y"}}}}, "has no usable vocabulary"),
        ({"tokenizer_config.json": with_token(1990, "<far>")}, "transformers gives it 1982"),
    ],
)
def test_files_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        vocabulary(tmp_path, changes)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (
            {"tokenizer.json": {**TOKENIZER, "pre_tokenizer": None}},
            "tokenizer.json has no pre_tokenizer: texts are split",
        ),
        ({"vocab.json": {"a": 9}}, "vocab.json differs from tokenizer.json ('a'): ignored, as in transformers"),
        ({"merges.txt": "#version: 0.2\na b\n"}, "merges.txt differs from tokenizer.json: ignored, as in transformers"),
        ({"added_tokens.json": {"<n>": 7}}, "added_tokens.json differs from tokenizer_config.json ('<n>'): ignored"),
        ({"special_tokens_map.json": {"eos_token": "a"}}, "special_tokens_map.json differs from tokenizer_config.json"),
        ({"tokenizer_config.json": {**CONFIG, "pad_token": "<|P|>"}}, "'<|P|>' is token 1982, from tokenizer_config"),
        ({"tokenizer_config.json": LEGACY, "added_tokens.json": {"<n>": 1982}}, "'<n>' is token 1982, from added_tok"),
    ],
)
def test_what_is_ignored_or_added_is_noted(changes: dict[str, Any], note: str, tmp_path: Path) -> None:
    notes = vocabulary(tmp_path, changes).notes
    assert any(one.startswith(note) for one in notes), notes


def test_many_tokens_that_the_leading_file_lacks_are_one_note(tmp_path: Path) -> None:
    [note] = vocabulary(tmp_path, {"tokenizer.json": {**TOKENIZER, "added_tokens": []}}).notes
    assert note.startswith(
        "26 tokens are from tokenizer_config.json, because tokenizer.json lacks them: '<|endoftext|>'"
    )


def test_empty_token_is_not_added_as_in_the_tokenizers_library(tmp_path: Path) -> None:
    reference = Tokenizer.from_file(str(TOY / "tokenizer.json"))
    assert reference.add_tokens([AddedToken("")]) == 0
    found = vocabulary(tmp_path, {"tokenizer_config.json": with_token(FREE, "")})
    assert (found.tokens[FREE], found.notes) == (f"[PAD{FREE}]", ())


def test_token_with_a_role_is_a_control_token(tmp_path: Path) -> None:
    found = vocabulary(tmp_path, {"tokenizer_config.json": {**CONFIG, "pad_token": "<new pad>"}})
    assert (found.tokens[FREE], found.types[FREE].name) == ("<new pad>", "CONTROL")
    assert found.special.special_token_ids["pad"] == FREE


def test_user_defined_token_has_its_spaces_as_in_texts(tmp_path: Path) -> None:
    found = vocabulary(tmp_path, {"tokenizer_config.json": with_token(FREE, "<a\u2581b>")})
    assert (found.tokens[FREE], found.types[FREE].name) == ("<a b>", "USER_DEFINED")


def test_vocab_without_merges_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"has neither tokenizer\.json nor merges\.txt"):
        vocabulary(tmp_path, {"tokenizer.json": None, "merges.txt": None})


@pytest.mark.parametrize("header", ["#version: 0.2\n", ""])
def test_merges_file_with_a_line_that_is_no_merge_is_refused(header: str, tmp_path: Path) -> None:
    merges = (TOY / "merges.txt").read_text().removeprefix("#version: 0.2\n")
    with pytest.raises(BadCheckpoint, match=r"merges\.txt has lines that are no merge"):
        vocabulary(tmp_path, {"tokenizer.json": None, "merges.txt": f"{header}{merges}a b c\n"})
    assert vocabulary(tmp_path, {"tokenizer.json": None, "merges.txt": header + merges}).special.merges


@pytest.mark.parametrize("key", ["lstrip", "rstrip", "single_word"])
def test_white_space_that_a_token_takes_in_transformers_is_noted(key: str, tmp_path: Path) -> None:
    decoder = CONFIG["added_tokens_decoder"]
    number, token = next(iter(decoder.items()))
    changed = {**CONFIG, "added_tokens_decoder": {**decoder, number: {**token, key: True}}}
    notes = vocabulary(tmp_path, {"tokenizer_config.json": changed}).notes
    assert notes == (f"lstrip, rstrip and single_word are ignored by llama.cpp ({token['content']!r})",)
