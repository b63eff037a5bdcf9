"""Read the tokens of a checkpoint from all files that transformers reads them from, and merge them as it does.

A folder comes in; a `TokenTable` goes out. tokenizer.json leads, or vocab.json with merges.txt where it is missing;
tokenizer_config.json adds tokens and decides which are special; added_tokens.json and special_tokens_map.json count
only if tokenizer_config.json has no `added_tokens_decoder`. Files that contradict the leading one about an id are
refused; those that transformers ignores are mentioned where they differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from quantize.checkpoint import list_names, read_json
from quantize.errors import BadCheckpoint
from quantize.qwen35.tokenizer_rules import DEFAULT_PRE_TOKENIZER, find_pre_tokenizer

SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SAME_RELEASE = "download all tokenizer files of one release again"
_FEW = 3
_MATCHING = ("lstrip", "rstrip", "single_word")
_CONFIG, _ADDED, _SPECIAL_MAP = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"


class TokenTable:
    """Tokens by id, and ids by text, while files are merged; `added` says of added tokens whether they are special.

    `special_ids` has the ids of the tokens with a role ("eos"), `notes` what was added or ignored, one line each, and
    `pre_tokenizer` llama.cpp's name of the rules.
    """

    def __init__(self, file: str) -> None:
        self.by_id: dict[int, str] = {}
        self.added: dict[int, bool] = {}
        self.special_ids: dict[str, int] = {}
        self.notes: list[str] = []
        self.ids: dict[str, int] = {}
        self.pre_tokenizer = DEFAULT_PRE_TOKENIZER
        self._file = file  # that leads
        self._lacking: dict[str, list[tuple[str, int]]] = {}

    def find(self, content: str) -> int | None:
        """The id of the token with this text."""
        return self.ids.get(content)

    def set_vocabulary(self, vocabulary: Mapping[str, object]) -> None:
        """Set the tokens of the model. Raises BadCheckpoint if two of them have the same id."""
        self.ids = {str(content): _whole(number) for content, number in vocabulary.items()}
        self.by_id = {number: content for content, number in self.ids.items()}
        if len(self.by_id) < len(self.ids):
            raise BadCheckpoint(f"{self._file} gives two tokens the same id", _SAME_RELEASE)

    def put(self, number: int, content: str, *, special: bool) -> None:
        """Set an added token of the leading file. Raises BadCheckpoint if it contradicts another token."""
        if self.ids.get(content, number) != number:
            raise BadCheckpoint(f"{self._file} gives two tokens the same text", _SAME_RELEASE)
        if self.by_id.get(number, content) != content or number in self.added:
            raise BadCheckpoint(f"{self._file} gives two tokens the id {number}", _SAME_RELEASE)
        self.by_id[number], self.ids[content], self.added[number] = content, number, special

    def merge(self, file: str, content: str, number: int | None, *, special: bool) -> None:
        """Merge an added token of another file; None: no id is given. Raises BadCheckpoint for a contradiction."""
        if not content:  # which the tokenizers library does not add
            return
        known, free = self.ids.get(content), max(self.by_id, default=-1) + 1
        if known is not None and number not in (None, known):
            raise BadCheckpoint(f"{file} gives {content!r} the id {number}, {self._file} {known}", _SAME_RELEASE)
        if known is None and number in self.by_id:
            other = self.by_id[number]
            raise BadCheckpoint(f"{file} says that {number} is {content!r}, {self._file} {other!r}", _SAME_RELEASE)
        if known is None and number not in (None, free):
            raise BadCheckpoint(
                f"{file} gives {content!r} the id {number}; {self._file} lacks it, so transformers gives it {free}",
                _SAME_RELEASE,
            )
        if known is None:
            self._lacking.setdefault(file, []).append((content, free))
            self.by_id[free] = content
        self.ids[content] = known = free if known is None else known
        if self.added.get(known, special) != special:
            kind = "special" if special else "not special"
            self.notes.append(f"{content!r} is {kind}, as {file} says; {self._file} says the opposite")
        self.added[known] = special

    def note_lacking(self) -> None:
        """Note which tokens the leading file lacks: each of a few, or how many."""
        for file, tokens in self._lacking.items():
            if len(tokens) <= _FEW:
                self.notes += [f"{text!r} is token {at}, from {file}: {self._file} lacks it" for text, at in tokens]
            else:
                names = list_names([f"{text!r}" for text, _ in tokens])
                self.notes.append(f"{len(tokens)} tokens are from {file}, because {self._file} lacks them: {names}")


def read_token_table(folder: Path) -> TokenTable:
    """Read the tokens of the checkpoint in `folder`. Raises MissingInput or BadCheckpoint."""
    has_tokenizer = (folder / "tokenizer.json").exists() or not (folder / "vocab.json").exists()
    table = TokenTable("tokenizer.json" if has_tokenizer else "vocab.json")
    if has_tokenizer:
        _read_tokenizer(folder, table)
    else:
        with_damage_named("vocab.json", lambda: table.set_vocabulary(read_json(folder / "vocab.json")))
    config = _read_optional(folder / _CONFIG)
    with_damage_named(_CONFIG, lambda: _merge_config(folder, table, config))
    table.note_lacking()
    return table


def with_damage_named(file: str, read: Any) -> None:
    """Run `read`; values of wrong types become a BadCheckpoint that names `file`."""
    try:
        read()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadCheckpoint(f"{file} has no usable vocabulary ({error})", "download it again") from error


def _read_tokenizer(folder: Path, table: TokenTable) -> None:
    """Read tokenizer.json, and mention vocab.json if it has other tokens."""
    tokenizer = read_json(folder / "tokenizer.json")

    def read() -> None:
        table.set_vocabulary(tokenizer["model"]["vocab"])
        for token in tokenizer.get("added_tokens") or ():
            table.put(_whole(token["id"]), str(token["content"]), special=bool(token.get("special")))
        table.pre_tokenizer = find_pre_tokenizer(tokenizer)
        if tokenizer.get("pre_tokenizer") is None:
            table.notes.append("tokenizer.json has no pre_tokenizer: texts are split as those of Qwen3.5 are")
        _note_white_space(table, tokenizer.get("added_tokens") or ())

    with_damage_named("tokenizer.json", read)
    others = _read_optional(folder / "vocab.json")
    differing = [content for content, number in others.items() if table.find(content) != number]
    if differing:
        table.notes.append(_ignored("vocab.json", differing, "tokenizer.json"))


def _merge_config(folder: Path, table: TokenTable, config: Mapping[str, Any]) -> None:
    """Merge the tokens of tokenizer_config.json, or of the files that older versions of transformers wrote."""
    added, special_map = _read_optional(folder / _ADDED), _read_optional(folder / _SPECIAL_MAP)
    decoder = config.get("added_tokens_decoder")
    roles = dict(_role_tokens(config))
    if decoder is None:  # transformers reads the older files only then
        roles = {**roles, **{role: content for role, content in _role_tokens(special_map) if role not in roles}}
    special = set(roles.values())
    if decoder is None:
        for content, number in added.items():
            known = table.find(content)
            is_special = content in special if known is None else table.added.get(known, content in special)
            table.merge(_ADDED, content, _whole(number), special=is_special)
    else:
        for number, token in sorted(decoder.items(), key=lambda entry: int(entry[0])):
            content = str(token["content"])
            table.merge(_CONFIG, content, int(number), special=bool(token.get("special")) or content in special)
        _note_white_space(table, decoder.values())
        differing = [content for content, number in added.items() if table.find(content) != number]
        if differing:
            table.notes.append(_ignored(_ADDED, differing, _CONFIG))
    for role, content in roles.items():
        known = table.find(content)
        if known is None or known not in table.added:
            table.merge(_CONFIG if role in dict(_role_tokens(config)) else _SPECIAL_MAP, content, None, special=True)
        if role in SPECIAL_TOKENS:
            table.special_ids[role] = table.ids[content]
    differing = [f"{role}_token" for role, content in _role_tokens(special_map) if roles.get(role) != content]
    if differing:
        table.notes.append(_ignored(_SPECIAL_MAP, differing, _CONFIG))


def _note_white_space(table: TokenTable, tokens: Iterable[Mapping[str, Any]]) -> None:
    """Mention added tokens that are found in another way than in llama.cpp."""
    names = [repr(token["content"]) for token in tokens if any(token.get(key) for key in _MATCHING)]
    note = f"lstrip, rstrip and single_word are ignored by llama.cpp ({list_names(names)})"
    if names and note not in table.notes:
        table.notes.append(note)


def _role_tokens(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The tokens with a role in tokenizer_config.json or special_tokens_map.json: role ("eos") and text."""
    for role in SPECIAL_TOKENS:
        if content := _content(config.get(f"{role}_token")):
            yield role, content
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key) or ()
        named = more.items() if isinstance(more, Mapping) else ((f"{key}[{i}]", token) for i, token in enumerate(more))
        for role, token in named:
            if content := _content(token):
                yield str(role), content


def _content(token: object) -> str:
    """The text of a token that is given as text or as an object; "" for none."""
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) else ""


def _ignored(file: str, names: list[str], leader: str) -> str:
    return f"{file} differs from {leader} ({list_names([repr(name) for name in names])}): ignored, as in transformers"


def _read_optional(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.is_file() else {}


def _whole(number: object) -> int:
    """An id. Raises TypeError or ValueError."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{number!r} is no token id")
    return number
