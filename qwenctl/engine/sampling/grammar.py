"""Constrains an answer to a JSON schema or a grammar (GBNF or Lark); the thinking before it is unconstrained.

A `Generate` request comes in; which tokens may follow goes out. The sampled token is usually allowed, so it alone is
checked; the mask of the whole vocabulary is only computed when it is not. llguidance does the work: it rejects grammars
that it cannot use, while libllama's own implementation crashes on some.
"""

from __future__ import annotations

import ctypes
from functools import cached_property, partial

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer, grammar_from
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from qwenctl.engine.llama.tokenizer import TokenBytes, Tokenizer
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.messages import Generate, RequestFailed

# llama_tokenize: vocabulary, text, its size in bytes, buffer for tokens, its size, add_special, parse_special.
_TOKENIZE = ctypes.CFUNCTYPE(
    ctypes.c_int32, *[ctypes.c_void_p] * 2, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, *[ctypes.c_bool] * 2
)
_SPECIAL = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_USER_DEFINED
# White space as models write it, but limited, since a grammar that allows any amount lets a model loop on it.
_JSON_OPTIONS = {"whitespace_pattern": r"[ \n\t]{0,20}"}


class GrammarMatcher:
    """The state of one answer within its grammar."""

    def __init__(self, tokenizer: LLTokenizer, text: str) -> None:
        self._matcher = LLMatcher(tokenizer, text, log_level=0)
        self._mask = allocate_token_bitmask(1, tokenizer.vocab_size)

    def allows(self, token: int) -> bool:
        """Whether `token` may follow."""
        return self._matcher.validate_tokens([token]) == 1

    def mask_logits(self, logits: npt.NDArray[np.float32]) -> None:
        """Set `logits` [vocabulary size] to minus infinity for every token that may not follow.

        Raises RequestError if that became too much to compute: then only the end would be allowed, as if it were right.
        """
        logits[~self._allowed()[: logits.size]] = -np.inf
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0][:300]
            raise RequestError(RequestFailed("setting", f"the grammar or schema cannot be used: {reason}"))

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed."""
        self._matcher.consume_token(token)

    def is_possible(self) -> bool:
        """Whether any token may follow."""
        return bool(self._allowed().any()) and not self._matcher.is_error()

    def _allowed(self) -> npt.NDArray[np.bool_]:
        fill_next_token_bitmask(self._matcher, self._mask)
        return np.unpackbits(self._mask.view(np.uint8), bitorder="little").astype(np.bool_)


class GrammarFactory:
    """Compiles grammars for one vocabulary."""

    def __init__(self, vocabulary: llama.llama_vocab_p, tokenizer: Tokenizer, token_bytes: TokenBytes) -> None:
        self._vocabulary, self._token_bytes = vocabulary, token_bytes
        # With libllama's tokenizer, text that spells a control token would become one, which the grammar does not know.
        self._tokenize = _TOKENIZE(partial(_write_tokens, tokenizer))

    def compile(self, request: Generate) -> GrammarMatcher:
        """The grammar that the answer to a request with one must follow. Raises RequestError if it cannot be used."""
        source = "JSON schema" if request.json_schema else "grammar of the calls" if request.tools else "grammar"
        try:
            grammar = GrammarMatcher(self._tokenizer, _definition(request))
        except ValueError as error:
            reason = " ".join(str(error).split())[:300]
            raise RequestError(RequestFailed("setting", f"the {source} cannot be used: {reason}")) from error
        if not grammar.is_possible():
            raise RequestError(RequestFailed("setting", f"the {source} cannot be used: nothing can match it"))
        return grammar

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        """llguidance's view of the vocabulary; made on first use, as it takes a second for a large one."""
        tokens = range(llama.llama_vocab_n_tokens(self._vocabulary))
        tokenizer: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # its stub leaves it out
            tokens=[self._bytes(token) for token in tokens],
            vocab_ptr=self._vocabulary,
            tokenize_fptr=ctypes.cast(self._tokenize, ctypes.c_void_p).value,
            eos_token=[token for token in tokens if llama.llama_vocab_is_eog(self._vocabulary, token)],
            slices=None,
        )
        return tokenizer

    def _bytes(self, token: int) -> bytes:
        """The bytes of a token; for a special token its name after 0xff, which is llguidance's convention."""
        special = llama.llama_vocab_get_attr(self._vocabulary, token) & _SPECIAL
        return b"\xff" + llama.llama_vocab_get_text(self._vocabulary, token) if special else self._token_bytes[token]


def _write_tokens(
    tokenizer: Tokenizer, _: int, text: int, size: int, buffer: int, capacity: int, *_switches: bool
) -> int:
    """Replaces llama_tokenize, but never produces special tokens.

    Returns the number of tokens, or minus that number if it exceeds `capacity`, as llama_tokenize does.
    """
    ids = tokenizer.tokenize_plain(ctypes.string_at(text, size))
    if len(ids) > capacity:
        return -len(ids)
    ctypes.memmove(buffer, (ctypes.c_int32 * len(ids))(*ids), 4 * len(ids))
    return len(ids)


def _definition(request: Generate) -> str:
    """The grammar in llguidance's own format. Raises ValueError."""
    if request.json_schema:
        text = LLMatcher.grammar_from_json_schema(request.json_schema, overrides=_JSON_OPTIONS)  # type: ignore[arg-type]
    else:
        text = grammar_from("grammar", request.grammar)
    error = LLMatcher.validate_grammar(text)
    if error and not error.startswith("WARNING"):
        raise ValueError(error)
    return text
