"""A model's vocabulary: texts become token ids, and token ids become bytes.

Segments come in, each from the template or from outside; token ids go out. They are the ids that the reference
tokenizer makes of the whole text at once, except that a control token such as `<|im_end|>` in untrusted text stays
plain text. What the segments mean is not known here.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import llama_cpp.llama_cpp as llama

from qwenctl.engine.llama.common_prefix import common_prefix_length
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.messages import RequestFailed

_USER_DEFINED = llama.LLAMA_TOKEN_ATTR_USER_DEFINED
# What libllama looks for when special tokens are on (llama-vocab.cpp, cache_special_tokens).
_SPECIAL = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN | _USER_DEFINED
_CACHED_TEXTS = 256
_FIRST_BUFFER_BYTES = 64


@dataclass(frozen=True)
class TemplateSegment:
    """A part of a prompt. `untrusted` text is not the template's own; a `boundary` means its start index is needed."""

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
        attributes = ((text, llama.llama_vocab_get_attr(vocabulary, token)) for token, text in enumerate(texts))
        special = [(text, attribute) for text, attribute in attributes if len(text) > 1 and attribute & _SPECIAL]
        self.special_texts = [text.decode("utf-8", "replace") for text, _ in special]
        self._special = re.compile(_alternatives(text for text, _ in special).decode("utf-8", "replace"))
        # libllama matches user-defined tokens even if special tokens are off: `<think>` and `<tool_call>` among them.
        # The lookahead lets `tokenize_plain` cut behind the first character of each match, overlapping ones included.
        self._always_special = re.compile(
            _alternatives((text for text, attribute in special if attribute & _USER_DEFINED), b"?=")
        )
        # Each turn tokenizes the conversation again, mostly the same texts.
        self.tokenize_text = lru_cache(_CACHED_TEXTS)(self._tokenize_normalized)

    def token_name(self, token: int) -> str:
        """The name of a token as the vocabulary has it, by which a control token is known: `<|im_end|>`."""
        name: bytes = llama.llama_vocab_get_text(self._vocabulary, token)
        return name.decode("utf-8", "replace")

    def ends_generation(self, token: int) -> bool:
        """Whether the token ends a turn."""
        return bool(llama.llama_vocab_is_eog(self._vocabulary, token))

    def tokenize_template(self, text: str) -> list[int]:
        """The tokens of a text that the template wrote: special tokens are recognized."""
        return self._tokenize(text.encode("utf-8", "replace"), special=True)

    def tokenize_plain(self, data: bytes) -> list[int]:
        """The tokens of UTF-8 bytes, even of an incomplete character; none of them is a special token."""
        # libllama would make a special token of these names, so each is cut after its first byte, and the pieces are
        # tokenized separately.
        cuts = [match.start() + 1 for match in self._always_special.finditer(data)]
        pieces = (data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True))
        return [token for piece in pieces for token in self._tokenize(piece, special=False)]

    def tokenize_segments(self, segments: Iterable[TemplateSegment]) -> tuple[list[int], list[int]]:
        """The tokens of all segments together, and the index in them at which each boundary segment starts."""
        tokens: list[int] = []
        boundaries: list[int] = []
        run = ""  # the text since the last special token: a token may span template text and untrusted text
        offsets: list[int] = []

        def end_run() -> None:
            # A token may reach across a boundary. The boundary is then moved back to where the tokens of the text
            # before it, tokenized alone, are still the same.
            run_tokens = self.tokenize_text(run)
            boundaries.extend(
                len(tokens) + common_prefix_length(run_tokens, self.tokenize_text(run[:offset])) for offset in offsets
            )
            tokens.extend(run_tokens)

        for segment in segments:
            if segment.boundary:
                offsets.append(len(run))
            if segment.untrusted:
                run += segment.text
                continue
            # The pattern has one group, so the parts alternate: text, special token, text, ...
            first, *rest = self._special.split(segment.text)
            run += first
            for special, text in zip(rest[::2], rest[1::2], strict=True):
                end_run()
                tokens += self.tokenize_template(special)
                run, offsets = text, []
        end_run()
        return tokens, boundaries

    def _tokenize_normalized(self, text: str) -> tuple[int, ...]:
        """The plain tokens of a text, in the NFC form that the model was trained on."""
        return tuple(self.tokenize_plain(unicodedata.normalize("NFC", text).encode("utf-8", "replace")))

    def _tokenize(self, data: bytes, *, special: bool) -> list[int]:
        if not data:
            return []
        capacity = len(data) + 2
        tokens = (ctypes.c_int32 * capacity)()
        count = llama.llama_tokenize(self._vocabulary, data, len(data), tokens, capacity, False, special)
        if count < 0:
            raise RequestError(RequestFailed("request", "the text cannot be tokenized"))
        return tokens[:count]


def _alternatives(texts: Iterable[bytes], group_prefix: bytes = b"") -> bytes:
    """A regex group that matches any of `texts`, longest first as in libllama; it never matches if there are none."""
    choices = sorted(map(re.escape, texts), key=len, reverse=True)
    return b"(%b%b)" % (group_prefix, b"|".join(choices)) if choices else b"((?!))"


class TokenBytes(dict[int, bytes]):
    """The bytes of each token id, queried from libllama once. Control tokens have none."""

    def __init__(self, vocabulary: llama.llama_vocab_p) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, token: int) -> bytes:
        size = _FIRST_BUFFER_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = llama.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, False)
            if written >= 0:
                self[token] = buffer.raw[:written]
                return self[token]
            size = -written  # the size that libllama needs: a token may be longer than any fixed buffer


class EogTokens(dict[int, bool]):
    """Whether each token id ends a turn (end of generation), queried from libllama once."""

    def __init__(self, vocabulary: llama.llama_vocab_p) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, token: int) -> bool:
        self[token] = bool(llama.llama_vocab_is_eog(self._vocabulary, token))
        return self[token]
