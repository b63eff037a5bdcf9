"""The state of one answer, token by token: the text of each token, the tokens that are forced, and the reason to stop.

Tokens come in, text and the next tokens go out. What evaluates them, alone or in a batch, is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from qwenctl.engine.model import LoadedModel
from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.engine.sampling.sampler import Sampler
from qwenctl.engine.sampling.stop_conditions import StopConditions
from qwenctl.protocol.messages import Channel, FinishReason, Generate, TextDelta


class AnswerState:
    """One answer: `text` splits it into channels, `stop_conditions` ends it, `sampler` samples its tokens."""

    def __init__(self, model: LoadedModel, request: Generate, sampler: Sampler) -> None:
        constrained = bool(request.grammar or request.json_schema)
        self._model, self._sampler, self._constrained = model, sampler, constrained
        self._n_left = request.max_tokens
        self._forced = deque[int]()
        self.stop_conditions = StopConditions(model.forced_think_end_tokens, request.think_budget)
        # A grammar applies from the end of the thinking on, so a tool call must not start before that.
        self.text = StreamingDetokenizer(
            model.token_bytes,
            model.think_end_token,
            thinking=request.enable_thinking,
            tool_call_start=model.tool_call_start_token if request.tools else None,
            in_thinking=not constrained,
        )

    @property
    def has_forced_token(self) -> bool:
        """Whether the next token is forced, whatever the logits say."""
        return bool(self._forced)

    def sample_next(self, row: int = -1) -> int:
        """The next token: a forced one, or sampled from the logits of row `row` of the last batch."""
        if self._forced:
            return self._forced.popleft()
        return self._sampler.sample(unconstrained=self.text.channel == "thinking", row=row)

    def accept_token(self, token: int, *, has_capacity: bool) -> tuple[list[TextDelta], int, FinishReason | None]:
        """Add `token`; return the text it completes, the token to evaluate, and the finish reason if the answer ends.

        `has_capacity` says whether the context has room for another token. The token to evaluate differs from `token`
        where the model ends its turn while thinking: then the thinking is closed instead.
        """
        channel = self.text.channel
        if self._model.eog_tokens[token]:
            if channel != "thinking":
                return [], token, "stop"
            self._forced.extend(self._model.think_end_tokens)  # the turn ended in the thinking, without an answer
            token = self._forced.popleft()
        deltas = self.text.feed(token)
        self._n_left -= 1
        return deltas, token, self._finish_reason(channel, token, has_capacity)

    def _finish_reason(self, channel: Channel, token: int, has_capacity: bool) -> FinishReason | None:
        if self._n_left == 0:
            return "length"
        if not has_capacity:
            return "context"
        if not self._forced:
            if self.stop_conditions.is_repeating(channel, token):
                return "loop"
            if channel == "thinking":  # nothing is ever forced in an answer
                self._forced.extend(self._next_forced_tokens())
        return None

    def _next_forced_tokens(self) -> Sequence[int]:
        """The tokens that must follow a token of the thinking; usually none."""
        if self.text.channel == "answer" and self._constrained:
            return self._model.post_think_tokens  # white space that the model expects, but no grammar allows
        return self.stop_conditions.forced_tokens(self.text)
