"""Convert a checkpoint's tokenizer to GGUF metadata.

The tokenizer files and chat templates come in; a `Vocabulary` goes out, and its keys to a `gguf.GGUFWriter`.
gguf's own `SpecialVocab` reads merges and special tokens; the list of tokens and their types follows
llama.cpp's converter (`conversion/base.py`, `get_vocab_base`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFWriter, SpecialVocab, TokenType

from quantize.checkpoint import read_json
from quantize.errors import BadCheckpoint, MissingInput
from quantize.qwen35.chat_templates import Templates, add_chat_templates, read_chat_templates
from quantize.qwen35.tokenizer_files import TokenTable, read_token_table
from quantize.qwen35.tokenizer_rules import check_merges

_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Vocabulary:
    """The text and type of each token id, the chat templates by name, and gguf's `special`: merges, tokens with a role.

    `pre_tokenizer` is llama.cpp's name of the rules that split a text before its merges. `notes` say, one line each,
    which files contradict each other.
    """

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    special: SpecialVocab
    pre_tokenizer: str
    templates: Templates
    notes: tuple[str, ...]


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Read the tokenizer in `folder`, padded to `size` tokens. Raises MissingInput or BadCheckpoint."""
    table = read_token_table(folder)
    if table.by_id and max(table.by_id) >= size:
        raise BadCheckpoint(f"tokenizer.json has the token {max(table.by_id)}, config.json only {size} tokens")
    types = [_token_type(number, table) for number in range(size)]
    # llama.cpp wants user-defined tokens as they are in texts, and its converter writes them so.
    tokens = [
        text.replace("\u2581", " ") if kind is TokenType.USER_DEFINED else text
        for text, kind in zip((table.by_id.get(number, f"[PAD{number}]") for number in range(size)), types, strict=True)
    ]
    # Before gguf reads it, which would fail on it, or on a depth that no other reader accepts.
    settings = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    templates, template_notes = read_chat_templates(folder, settings)
    try:
        special = SpecialVocab(folder, load_merges=True, n_vocab=size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"the tokenizer files in {folder} are damaged: {error}", "download them again") from error
    if not special.merges and not (folder / "tokenizer.json").exists():
        raise MissingInput(f"{folder} has neither tokenizer.json nor merges.txt", "download the tokenizer files")
    if not special.merges:
        raise BadCheckpoint(f"tokenizer.json in {folder} has no merges", "download it again")
    check_merges(table.ids, special.merges, "tokenizer.json" if (folder / "tokenizer.json").exists() else "merges.txt")
    special.chat_template = None  # gguf finds none without a tokenizer_config.json, and another one than transformers
    for token in ("bos", "eos"):  # Qwen3.5 adds neither; later gguf releases set this themselves
        special.add_special_token.setdefault(token, False)
    notes = [*table.notes, *_compare_merges(folder, special), *_complete_special_ids(special, table)]
    notes += template_notes
    return Vocabulary(tuple(tokens), tuple(types), special, table.pre_tokenizer, templates, tuple(notes))


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Add the keys of `vocabulary` to `writer`."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    vocabulary.special.add_to_gguf(writer, quiet=True)
    add_chat_templates(writer, vocabulary.templates)


def _complete_special_ids(special: SpecialVocab, table: TokenTable) -> list[str]:
    """Give the tokens with a role that gguf did not find the ids of `table`; returns notes about other ids."""
    notes = []
    for role, number in table.special_ids.items():
        found = special.special_token_ids.setdefault(role, number)
        if found != number:
            notes.append(f"{role}_token is {number} in the tokenizer files; config.json says {found}, which is used")
    return notes


def _compare_merges(folder: Path, special: SpecialVocab) -> list[str]:
    """A note if merges.txt has other merges than tokenizer.json, which counts.

    Raises BadCheckpoint for lines of merges.txt that are none, if it is what counts.
    """
    path = folder / "merges.txt"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    merges = [line.strip() for line in lines if line.strip() and not line.startswith("#version")]
    if merges == special.merges:
        return []
    if not (folder / "tokenizer.json").exists():
        raise BadCheckpoint("merges.txt has lines that are no merge of two tokens", "download it again")
    return ["merges.txt differs from tokenizer.json: ignored, as in transformers"]


def _token_type(number: int, table: TokenTable) -> TokenType:
    """The GGUF type of a token id."""
    if number not in table.by_id:
        return TokenType.UNUSED
    if number not in table.added:
        return TokenType.NORMAL
    # As `does_token_look_special` in llama.cpp's converter: some releases do not mark all of their control tokens.
    looks_special = table.by_id[number].startswith("<|") and table.by_id[number].endswith("|>")
    return TokenType.CONTROL if table.added[number] or looks_special else TokenType.USER_DEFINED
