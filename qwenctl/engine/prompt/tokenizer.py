"""libllama's tokenizer, with control tokens only where the template wrote them.

Pieces of text come in, each from the template or from outside; token ids go out: those that the reference makes of the
whole text in one piece, but that `<|im_end|>` from outside stays text. What the pieces mean is not known here.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import llama_cpp.llama_cpp as llama

from qwenctl.engine.llama.tokens import common_prefix_length
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.messages import RequestFailed

_USER_DEFINED = llama.LLAMA_TOKEN_ATTR_USER_DEFINED
# What libllama looks for when special tokens are on (llama-vocab.cpp, cache_special_tokens).
_SPECIAL = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN | _USER_DEFINED
_KEPT_TEXTS = 256


@dataclass(frozen=True)
class TemplateSegment:
    """A part of a prompt. `outside` says that it is no part of the template, `marked` that its begin is wanted."""

    text: str
    untrusted: bool = False
    boundary: bool = False


class Tokenizer:
    """The tokenizer of one vocabulary."""

    def __init__(self, vocabulary: llama.llama_vocab_p) -> None:
        self._vocabulary = vocabulary
        count = llama.llama_vocab_n_tokens(vocabulary)
        texts = [llama.llama_vocab_get_text(vocabulary, token) for token in range(count)]
        self.longest_token_bytes = max(map(len, texts), default=1)
        kinds = ((text, llama.llama_vocab_get_attr(vocabulary, token)) for token, text in enumerate(texts))
        special = [(text, kind) for text, kind in kinds if len(text) > 1 and kind & _SPECIAL]
        self._special = re.compile(_any_of(text for text, _ in special).decode("utf-8", "replace"))
        # libllama matches these whether or not special tokens are on. `<think>` and `<tool_call>` are among them.
        self._always_special = re.compile(_any_of((text for text, kind in special if kind & _USER_DEFINED), b"?="))
        # A conversation is tokenized again with each turn, mostly the same texts.
        self.tokenize_text = lru_cache(_KEPT_TEXTS)(self._content)

    def tokenize_template(self, text: str) -> list[int]:
        """The tokens of a text that the template wrote: special tokens are what they spell."""
        return self._tokenize(text.encode("utf-8", "replace"), special=True)

    def tokenize_plain(self, data: bytes) -> list[int]:
        """The tokens of UTF-8 text, whole or not, all of them ordinary."""
        cuts = [match.start() + 1 for match in self._always_special.finditer(data)]
        pieces = (data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True))
        return [token for piece in pieces for token in self._tokenize(piece, special=False)]

    def tokenize_segments(self, pieces: Iterable[TemplateSegment]) -> tuple[list[int], list[int]]:
        """The tokens of all pieces, and where in them each marked one begins."""
        tokens: list[int] = []
        begins: list[int] = []
        run = ""  # the text since the last special token: words may reach from the template into what is from outside
        offsets: list[int] = []

        def end_run() -> None:
            found = self.tokenize_text(run)
            begins.extend(
                len(tokens) + common_prefix_length(found, self.tokenize_text(run[:offset])) for offset in offsets
            )
            tokens.extend(found)

        for piece in pieces:
            if piece.boundary:
                offsets.append(len(run))
            if piece.untrusted:
                run += piece.text
                continue
            first, *rest = self._special.split(piece.text)
            run += first
            for special, text in zip(rest[::2], rest[1::2], strict=True):
                end_run()
                tokens += self.tokenize_template(special)
                run, offsets = text, []
        end_run()
        return tokens, begins

    def _content(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, all of them ordinary, in the NFC form that the model was trained on."""
        return tuple(self.tokenize_plain(unicodedata.normalize("NFC", text).encode("utf-8", "replace")))

    def _tokenize(self, data: bytes, *, special: bool) -> list[int]:
        if not data:
            return []
        room = len(data) + 2
        tokens = (ctypes.c_int32 * room)()
        count = llama.llama_tokenize(self._vocabulary, data, len(data), tokens, room, False, special)
        if count < 0:
            raise RequestError(RequestFailed("request", "the text cannot be tokenized"))
        return tokens[:count]


def _any_of(texts: Iterable[bytes], kind: bytes = b"") -> bytes:
    """A group that matches each of `texts`, the longest first, as libllama looks for them; never, if there are none."""
    choices = sorted(map(re.escape, texts), key=len, reverse=True)
    return b"(%b%b)" % (kind, b"|".join(choices)) if choices else b"((?!))"
