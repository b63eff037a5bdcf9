"""Convert a checkpoint's tokenizer to GGUF metadata.

tokenizer.json, tokenizer_config.json and chat_template.jinja come in; keys of a `gguf.GGUFWriter` go out. gguf's own
`SpecialVocab` reads merges, special tokens and the chat template; the list of tokens and their types follows
llama.cpp's converter (`conversion/base.py`, `get_vocab_base`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

from quantize.checkpoint import read_json
from quantize.errors import BadCheckpoint

# llama.cpp's name for the pre-tokenizer of Qwen3.5. Its converter derives the name from a hash of the tokens of a test
# text, but that hash differs between releases with the same rules, so the name is fixed for the architecture here.
_PRE_TOKENIZER = "qwen35"


def add_tokenizer(writer: GGUFWriter, folder: Path, vocabulary: int) -> None:
    """Add the tokenizer in `folder`, padded to `vocabulary` tokens, to `writer`.

    Raises MissingInput or BadCheckpoint.
    """
    tokens, types = _read_tokens(folder, vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    try:
        special = SpecialVocab(folder, load_merges=True, n_vocab=vocabulary)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"the tokenizer files in {folder} are damaged: {error}", "download them again") from error
    if not special.merges:
        raise BadCheckpoint(f"tokenizer.json in {folder} has no merges", "download it again")
    for token in ("bos", "eos"):  # Qwen3.5 adds neither; later gguf releases set this themselves
        special.add_special_token.setdefault(token, False)
    special.add_to_gguf(writer, quiet=True)


def _read_tokens(folder: Path, vocabulary: int) -> tuple[list[str], list[TokenType]]:
    """The text and type of each token id [vocabulary]; ids without a token are padding. Raises BadCheckpoint."""
    tokenizer = read_json(folder / "tokenizer.json")
    try:
        by_id = {int(number): str(token) for token, number in tokenizer["model"]["vocab"].items()}
        added = {int(token["id"]): token for token in tokenizer.get("added_tokens", [])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadCheckpoint(f"tokenizer.json has no usable vocabulary ({error})", "download it again") from error
    by_id |= {number: str(token["content"]) for number, token in added.items()}
    if by_id and max(by_id) >= vocabulary:
        raise BadCheckpoint(f"tokenizer.json has the token {max(by_id)}, config.json only {vocabulary} tokens")
    if len(set(by_id.values())) != len(by_id):
        raise BadCheckpoint("tokenizer.json gives two tokens the same text", "download it again")
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(vocabulary)]
    return tokens, [_token_type(number, by_id, added) for number in range(vocabulary)]


def _token_type(number: int, by_id: Mapping[int, str], added: Mapping[int, Mapping[str, Any]]) -> TokenType:
    """The GGUF type of a token id; `added` are the added tokens of the tokenizer by id."""
    if number not in by_id:
        return TokenType.UNUSED
    if number not in added:
        return TokenType.NORMAL
    # As `does_token_look_special` in llama.cpp's converter: some releases do not mark all of their control tokens.
    looks_special = by_id[number].startswith("<|") and by_id[number].endswith("|>")
    return TokenType.CONTROL if added[number].get("special") or looks_special else TokenType.USER_DEFINED
