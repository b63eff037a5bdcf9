"""What libllama says of each token of a vocabulary: its bytes, and whether it ends a turn. Queried once per token.

Token ids come in; what is done with the bytes is not known here.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as llama

_FIRST_BUFFER_BYTES = 64


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
