"""Convert a checkpoint's tokenizer to GGUF metadata.

The tokenizer files and chat_template.jinja come in; a `Vocabulary` goes out, and its keys to a `gguf.GGUFWriter`.
gguf's own `SpecialVocab` reads merges, special tokens and the chat template; the list of tokens and their types follows
llama.cpp's converter (`conversion/base.py`, `get_vocab_base`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFWriter, SpecialVocab, TokenType

from quantize.checkpoint import read_json
from quantize.errors import BadCheckpoint, MissingInput
from quantize.qwen35.tokenizer_files import TokenTable, read_token_table

# llama.cpp's name for the pre-tokenizer of Qwen3.5. Its converter derives the name from a hash of the tokens of a test
# text, but that hash differs between releases with the same rules, so the name is fixed for the architecture here.
_PRE_TOKENIZER = "qwen35"
_ALSO_READ = ("tokenizer_config.json", "chat_template.json")


@dataclass(frozen=True)
class Vocabulary:
    """The text and type of each token id, and gguf's `special`: merges, tokens with a role, chat template.

    `notes` say, one line each, which files contradict each other.
    """

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    special: SpecialVocab
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
    for name in _ALSO_READ:  # by gguf, which would fail on them, or on a depth that no other reader accepts
        if (folder / name).is_file():
            read_json(folder / name)
    try:
        special = SpecialVocab(folder, load_merges=True, n_vocab=size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"the tokenizer files in {folder} are damaged: {error}", "download them again") from error
    if not special.merges and not (folder / "tokenizer.json").exists():
        raise MissingInput(f"{folder} has neither tokenizer.json nor merges.txt", "download the tokenizer files")
    if not special.merges:
        raise BadCheckpoint(f"tokenizer.json in {folder} has no merges", "download it again")
    for token in ("bos", "eos"):  # Qwen3.5 adds neither; later gguf releases set this themselves
        special.add_special_token.setdefault(token, False)
    notes = [*table.notes, *_compare_merges(folder, special), *_complete_special_ids(special, table)]
    return Vocabulary(tuple(tokens), tuple(types), special, tuple(notes))


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Add the keys of `vocabulary` to `writer`."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_PRE_TOKENIZER)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    vocabulary.special.add_to_gguf(writer, quiet=True)


def _complete_special_ids(special: SpecialVocab, table: TokenTable) -> list[str]:
    """Give the tokens with a role that gguf did not find the ids of `table`; returns notes about other ids."""
    notes = []
    for role, number in table.special_ids.items():
        found = special.special_token_ids.setdefault(role, number)
        if found != number:
            notes.append(f"{role}_token is {number} in the tokenizer files; config.json says {found}, which is used")
    return notes


def _compare_merges(folder: Path, special: SpecialVocab) -> list[str]:
    """A note if merges.txt has other merges than tokenizer.json, which counts."""
    path = folder / "merges.txt"
    if not path.is_file() or not (folder / "tokenizer.json").exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    merges = [line.strip() for line in lines if line.strip() and not line.startswith("#version")]
    if merges == special.merges:
        return []
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
