"""Compare the rules of a tokenizer.json with those that llama.cpp has built in for its pre-tokenizers.

The parsed tokenizer.json comes in; llama.cpp's name of its pre-tokenizer goes out. GGUF has no place for other rules:
libllama would split the same text into other tokens, silently, so they are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantize.errors import BadCheckpoint

DEFAULT_PRE_TOKENIZER = "qwen35"
_TAIL = r"]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?"
# The regular expression of each, as published; with marks (accents) in words since Qwen3.5.
_SPLITS = {
    _HEAD + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}" + _TAIL: DEFAULT_PRE_TOKENIZER,
    _HEAD + r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}" + _TAIL: "qwen2",
}
_LISTS = {"pre_tokenizer": "pretokenizers", "normalizer": "normalizers", "decoder": "decoders"}
_HINT = "start from a checkpoint with the tokenizer of its original release"


def find_pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of the rules in `tokenizer`, the content of tokenizer.json.

    Raises BadCheckpoint if llama.cpp would make other tokens of a text, and TypeError or the like for damaged values.
    """
    model = tokenizer["model"]
    if model.get("type", "BPE") != "BPE":
        raise _other_rule("model", model["type"])
    for key in ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _other_rule(key, model[key])
    for part in _steps(tokenizer, "normalizer"):
        if part["type"] != "NFC":  # of which libllama knows nothing, as its converter accepts
            raise _other_rule("normalizer", part["type"])
    for part in _steps(tokenizer, "decoder"):
        if part["type"] != "ByteLevel":
            raise _other_rule("decoder", part["type"])
    return _find_split(_steps(tokenizer, "pre_tokenizer"))


def check_merges(vocabulary: Mapping[str, object], merges: Sequence[str], file: str) -> None:
    """Raise BadCheckpoint if a merge has a part or a result that is no token, as the tokenizers library does."""
    for merge in merges:
        first, _, second = merge.partition(" ")
        unknown = next((part for part in (first, second, first + second) if part not in vocabulary), None)
        if unknown is not None:
            raise BadCheckpoint(
                f"{file} has the merge {merge!r}, but {unknown!r} is no token",
                "download all tokenizer files of one release again",
            )


def _find_split(parts: Sequence[Mapping[str, Any]]) -> str:
    """The name of the pre-tokenizer that consists of `parts`: a split, and the change of bytes to letters.

    Without any, as in made-up tokenizers, it is Qwen3.5's.
    """
    if not parts:
        return DEFAULT_PRE_TOKENIZER
    kinds = [part["type"] for part in parts]
    if kinds != ["Split", "ByteLevel"]:
        raise _other_rule("pre_tokenizer", " and ".join(kinds))
    split, to_letters = parts
    if to_letters.get("add_prefix_space", True) or to_letters.get("use_regex", True):
        raise _other_rule("pre_tokenizer", "ByteLevel with add_prefix_space or use_regex")
    pattern = split["pattern"].get("Regex")
    if pattern not in _SPLITS or split.get("behavior") != "Isolated" or split.get("invert"):
        raise _other_rule("pre_tokenizer", str(pattern)[:40])
    return _SPLITS[pattern]


def _steps(tokenizer: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The steps of a part of tokenizer.json, which may be none, one, or a nested sequence."""

    def flatten(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if part["type"] != "Sequence":
            yield part
            return
        for inner in part[_LISTS[name]]:
            yield from flatten(inner)

    part = tokenizer.get(name)
    return list(flatten(part)) if part is not None else []


def _other_rule(key: str, value: object) -> BadCheckpoint:
    return BadCheckpoint(
        f"tokenizer.json has other rules than Qwen3.5's ({key}: {value}): llama.cpp would make other tokens of a text",
        _HINT,
    )
