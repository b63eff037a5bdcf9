"""Samples the next token: biases, penalties, then llama.cpp's sampler chain, in llama.cpp's order.

A context with fresh logits comes in, a token id goes out. Penalties are applied here and not in the chain, because
llama.cpp's sampler looks up every entry of the vocabulary (248,320) in a hash table for each token, where only the
tokens used so far can change. They count the tokens of the answer, thinking included, but not of the prompt, as in the
measurements for which the model's makers publish their values.
"""

from __future__ import annotations

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from qwenctl.engine.llama.logits_view import LogitsView
from qwenctl.engine.sampling.grammar import GrammarMatcher
from qwenctl.models.sampling import normalize_seed
from qwenctl.protocol.messages import Generate, Sampling

_MIN_KEEP = 1  # tokens that top-p and min-p leave at least


class Sampler:
    """The sampling state of the answer to `request`, whose tokens are drawn from `logits`.

    `model_logits` [vocabulary size] are those of the last token that may need them, as the model computed them: one
    that is not `unconstrained`, if the request asks for log probabilities. Close it to free the sampler chain.
    """

    def __init__(self, request: Generate, logits: LogitsView, grammar: GrammarMatcher | None = None) -> None:
        sampling = request.sampling
        self._logits, self._context, self._grammar = logits, logits.context, grammar
        self._biased = np.array([token for token, _ in request.logit_bias], np.int64)
        self._biases = np.array([bias for _, bias in request.logit_bias], np.float32)
        self._keeps_logits = request.logprobs is not None
        self.model_logits = np.zeros(0, np.float32)
        self._chain = _chain(sampling) if sampling.temperature > 0 else None
        self._penalties = Penalties(sampling, logits.vocabulary_size)
        changes_logits = self._penalties.are_active or bool(request.logit_bias)
        self._is_plain = self._chain is not None and grammar is None and not changes_logits

    def close(self) -> None:
        """Free the sampler chain; the sampler cannot be used afterwards."""
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)

    def sample(self, *, unconstrained: bool, row: int = -1) -> int:
        """Sample a token from the logits of row `row` of the last batch; within the grammar unless `unconstrained`."""
        if self._keeps_logits and not unconstrained:
            self.model_logits = self._logits.row(row).copy()  # what follows changes them where they are
        if self._is_plain:
            return int(llama.llama_sampler_sample(self._chain, self._context, row))
        logits = self._logits.row(row)
        logits[self._biased] += self._biases
        self._penalties.apply(logits)
        grammar = None if unconstrained else self._grammar
        while True:
            chain = self._chain
            token = int(llama.llama_sampler_sample(chain, self._context, row) if chain else logits.argmax())
            if grammar is None or grammar.allows(token):
                break
            grammar.mask_logits(logits)  # rejections are rare: mask the vocabulary only then
            grammar = None
        if not unconstrained and self._grammar is not None:
            self._grammar.accept(token)
        self._penalties.observe(token)
        return token


class Penalties:
    """Repeat, frequency and presence penalties over the last tokens, as in `llama_sampler_penalties_apply`."""

    def __init__(self, sampling: Sampling, vocabulary_size: int) -> None:
        self._repeat = np.float32(sampling.repeat_penalty)
        self._frequency, self._presence = np.float32(sampling.frequency_penalty), np.float32(sampling.presence_penalty)
        self._window = sampling.repeat_last_n
        idle = sampling.repeat_penalty == 1 and not sampling.frequency_penalty and not sampling.presence_penalty
        self.are_active = not idle and self._window != 0
        self._counts = np.zeros(vocabulary_size if self.are_active else 0, np.int32)
        self._used = np.zeros(256, np.int32)  # [capacity] distinct ids, in the order of their first use
        self._n_used = 0
        self._tokens: list[int] = []

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Modify the logits [vocabulary size] of the tokens in the window, in place."""
        if not self._n_used:
            return
        used = self._used[: self._n_used]
        counts = self._counts[used]
        used, counts = used[counts > 0], counts[counts > 0]
        values = logits[used]
        values = np.where(values <= 0, values * self._repeat, values / self._repeat)
        logits[used] = values - (counts * self._frequency + self._presence)

    def observe(self, token: int) -> None:
        """Add `token` to the window; the oldest token leaves it."""
        if not self.are_active:
            return
        # A token keeps its entry when it leaves the window, so the ids are only searched for tokens with a count of 0.
        if self._counts[token] == 0 and token not in self._used[: self._n_used]:
            if self._n_used == self._used.size:
                self._used = np.concatenate([self._used, np.zeros_like(self._used)])
            self._used[self._n_used] = token
            self._n_used += 1
        self._counts[token] += 1
        self._tokens.append(token)
        if 0 < self._window < len(self._tokens):
            self._counts[self._tokens[-1 - self._window]] -= 1


def _chain(sampling: Sampling) -> llama.llama_sampler_p:
    """top-k, top-p, min-p, temperature and the random draw; samplers that would change nothing are left out."""
    chain: llama.llama_sampler_p = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    if sampling.top_k > 0:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_p(sampling.top_p, _MIN_KEEP))
    if sampling.min_p > 0:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_min_p(sampling.min_p, _MIN_KEEP))
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_temp(sampling.temperature))
    # llama.cpp draws a seed in place of this one, so one that was given must never be it.
    seed = llama.LLAMA_DEFAULT_SEED if sampling.seed is None else normalize_seed(sampling.seed)
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(seed))
    return chain
