"""The log probabilities of an answer's tokens, and of the most likely ones in their place.

Logits as the model computed them come in, before biases, penalties, grammar and samplers, as llama-server and vLLM
report them by default; what goes out travels with the text of the answer. Thinking and calls have none, and neither has
the white space before the answer, which is not a part of it.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from qwenctl.protocol.messages import TextDelta, TokenLogprob

_DECIMALS = 6  # float32 logits hold no more

Logits = npt.NDArray[np.float32]


class LogprobRecorder:
    """Observes the tokens of one answer, with `count` alternatives for each, and adds them to its text.

    `token_bytes` has the bytes of each token; one without any is called by what `token_name` returns.
    """

    def __init__(self, count: int, token_bytes: Mapping[int, bytes], token_name: Callable[[int], str]) -> None:
        self._count, self._token_bytes, self._token_name = count, token_bytes, token_name
        self._last: TokenLogprob | None = None
        self._pending: list[TokenLogprob] = []  # of tokens whose text is not complete
        self._has_text = False

    def observe(self, logits: Logits, token: int) -> None:
        """Record `token`, which was sampled for the answer where the model had computed `logits` [vocabulary size]."""
        shift = float(logits.max())
        shift += math.log(float(np.exp(logits - np.float32(shift)).sum(dtype=np.float64)))
        top = most_likely(logits, self._count)
        entry = self._entry(token, float(logits[token]) - shift)
        alternatives = tuple(self._entry(other, float(logits[other]) - shift) for other in top)
        self._last = replace(entry, top_logprobs=alternatives)

    def attach(self, deltas: list[TextDelta], *, in_answer: bool) -> list[TextDelta]:
        """The same text with the tokens that it consists of; the last one observed counts if it is `in_answer`."""
        entry, self._last = self._last, None
        if entry is not None and in_answer and (self._has_text or not entry.token.isspace()):
            self._pending.append(entry)
            self._has_text = True
        places = [place for place, delta in enumerate(deltas) if delta.channel == "answer"]
        if not places or not self._pending:
            return deltas
        found, self._pending = tuple(self._pending), []
        last = places[-1]
        return [*deltas[:last], replace(deltas[last], logprobs=found), *deltas[last + 1 :]]

    def _entry(self, token: int, logprob: float) -> TokenLogprob:
        data = self._token_bytes[token]
        text = data.decode("utf-8", "replace") if data else self._token_name(token)
        # Added to 0, so that no certain token has a logarithm of -0.
        return TokenLogprob(text, round(logprob, _DECIMALS) + 0.0, tuple(data) if data else None)


def most_likely(logits: Logits, count: int) -> list[int]:
    """The ids of the `count` largest of `logits` [vocabulary size], in descending order; equal ones by their ids."""
    if count <= 0:
        return []
    count = min(count, logits.size)
    least = np.partition(logits, logits.size - count)[logits.size - count]
    above, equal = np.flatnonzero(logits > least), np.flatnonzero(logits == least)
    ordered = above[np.argsort(-logits[above], kind="stable")]
    return [int(token) for token in chain(ordered, equal[: count - above.size])]


def cut_logprobs(entries: Sequence[TokenLogprob], place: int) -> tuple[TokenLogprob, ...]:
    """The tokens that begin before the index `place` of the answer, in characters; the last one may reach beyond it."""
    if place <= 0:
        return ()
    texts = decode_tokens(entries)
    whole = "".join(texts)
    left = place + len(whole) - len(whole.lstrip())
    count = 0
    for text in texts:
        if left <= 0:
            break
        left -= len(text)
        count += 1
    return tuple(entries[:count])


def decode_tokens(entries: Sequence[TokenLogprob]) -> list[str]:
    """The text that each token completes: a character of several tokens belongs to the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(bytes(entry.bytes or ())) for entry in entries]
