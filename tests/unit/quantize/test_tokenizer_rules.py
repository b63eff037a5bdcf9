"""Rules of a tokenizer.json that libllama does not have are refused: it would make other tokens of a text, silently."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quantize.errors import BadCheckpoint
from quantize.qwen35.tokenizer_rules import check_merges, find_pre_tokenizer
from tests.support.paths import TOY

TOKENIZER = json.loads((TOY / "tokenizer.json").read_bytes())
SPLIT, LETTERS = TOKENIZER["pre_tokenizer"]["pretokenizers"]
QWEN3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = SPLIT["pattern"]["Regex"].replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEXT = "He's 1234 naïve\u0301, x\n\n  y"


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    tokenizer: dict[str, Any] = copy.deepcopy(TOKENIZER)
    change(tokenizer)
    return tokenizer


def steps(*parts: dict[str, Any]) -> dict[str, Any]:
    return changed(lambda tokenizer: tokenizer.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [*parts]}))


def split_by(pattern: str) -> dict[str, Any]:
    return {**SPLIT, "pattern": {"Regex": pattern}}


def test_rules_of_qwen_are_found_by_llama_cpps_name() -> None:
    assert find_pre_tokenizer(TOKENIZER) == "qwen35"
    assert find_pre_tokenizer(steps(split_by(QWEN3), LETTERS)) == "qwen2"


OTHERS = {
    "digits": steps(split_by(DIGITS), LETTERS),
    "one step more": steps(split_by(DIGITS), SPLIT, LETTERS),
    "removed": steps({**SPLIT, "behavior": "Removed"}, LETTERS),
    "inverted": steps({**SPLIT, "invert": True}, LETTERS),
    "text": steps({**SPLIT, "pattern": {"String": " "}}, LETTERS),
    "prefix space": steps(SPLIT, {**LETTERS, "add_prefix_space": True}),
    "GPT-2's split too": steps(SPLIT, {**LETTERS, "use_regex": True}),
    "letters alone": steps(LETTERS),
    "lower case": changed(lambda tokenizer: tokenizer.update(normalizer={"type": "Lowercase"})),
    "NFKC": changed(
        lambda tokenizer: tokenizer.update(
            normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}
        )
    ),
    "whole words": changed(lambda tokenizer: tokenizer["model"].update(ignore_merges=True)),
    "word ends": changed(lambda tokenizer: tokenizer["model"].update(end_of_word_suffix="</w>")),
    "word pieces": changed(lambda tokenizer: tokenizer["model"].update(type="WordPiece")),
    "decoder": changed(lambda tokenizer: tokenizer.update(decoder={"type": "Metaspace"})),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_rules_are_refused(name: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json has other rules than Qwen3\.5's"):
        find_pre_tokenizer(OTHERS[name])


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}])
def test_normalizers_that_change_no_usual_text_are_accepted(normalizer: object) -> None:
    accepted = changed(lambda tokenizer: tokenizer.update(normalizer=normalizer))
    assert find_pre_tokenizer(accepted) == "qwen35"
    reference = Tokenizer.from_str(json.dumps(TOKENIZER))
    assert Tokenizer.from_str(json.dumps(accepted)).encode(TEXT).ids == reference.encode(TEXT).ids or normalizer is None


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=3),
    st.sets(st.sampled_from(["a", "b", "c", "ab", "bc", "aa", "cb"])),
)
def test_merges_without_a_token_are_refused(merges: list[tuple[str, str]], tokens: set[str]) -> None:
    texts = [" ".join(pair) for pair in merges]
    if all({first, second, first + second} <= tokens for first, second in merges):
        check_merges(dict.fromkeys(tokens, 0), texts, "tokenizer.json")
        return
    with pytest.raises(BadCheckpoint, match="is no token"):
        check_merges(dict.fromkeys(tokens, 0), texts, "tokenizer.json")


def test_tokenizers_library_refuses_a_merge_without_a_token_too() -> None:
    merges = changed(lambda tokenizer: tokenizer["model"]["merges"].append(["\u0120", "nowhere"]))
    with pytest.raises(Exception, match="nowhere"):
        Tokenizer.from_str(json.dumps(merges))
