"""One answer, token by token: what is said by a token, what must follow it, and when it is the last.

Tokens come in, text and the next tokens go out. Who evaluates them, alone or among others, is not known here.
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
    """The steps of one answer. `text` splits it into channels, `guard` ends it, `sampler` draws its tokens."""

    def __init__(self, model: LoadedModel, request: Generate, sampler: Sampler) -> None:
        constrained = bool(request.grammar or request.json_schema)
        self._model, self._sampler, self._constrained = model, sampler, constrained
        self._left = request.max_tokens
        self._forced = deque[int]()
        self.guard = StopConditions(model.forced_think_end_tokens, request.think_budget)
        # A grammar begins where the thinking ends, so that no call may come before that.
        self.text = StreamingDetokenizer(
            model.pieces,
            model.thinking_end,
            thinking=request.enable_thinking,
            call_begin=model.tool_call_start_token if request.tools else None,
            in_thinking=not constrained,
        )

    @property
    def has_forced_token(self) -> bool:
        """Whether the token that follows is known, whatever the model says."""
        return bool(self._forced)

    def sample_next(self, row: int = -1) -> int:
        """The token that follows, by the logits of the token at `row` of the last batch."""
        if self._forced:
            return self._forced.popleft()
        return self._sampler.sample(free=self.text.channel == "thinking", row=row)

    def accept_token(self, token: int, *, has_room: bool) -> tuple[list[TextDelta], int, FinishReason | None]:
        """The text that `token` makes whole, the token to evaluate, and why the answer ends, if it does.

        `has_room` says whether the context can take one more token.
        """
        channel = self.text.channel
        if self._model.eog_tokens[token]:
            if channel != "thinking":
                return [], token, "stop"
            self._forced.extend(self._model.think_end_tokens)  # it has stopped thinking, but has not answered yet
            token = self._forced.popleft()
        said = self.text.feed(token)
        self._left -= 1
        return said, token, self._finish_reason(channel, token, has_room)

    def _finish_reason(self, channel: Channel, token: int, has_room: bool) -> FinishReason | None:
        if self._left == 0:
            return "length"
        if not has_room:
            return "context"
        if not self._forced:
            if self.guard.is_repeating(channel, token):
                return "loop"
            if channel == "thinking":  # nothing must follow in an answer
                self._forced.extend(self._forced_after())
        return None

    def _forced_after(self) -> Sequence[int]:
        """The tokens that must follow one of the thinking; mostly none."""
        if self.text.channel == "answer" and self._constrained:
            return self._model.post_think_tokens  # white space that no grammar knows of, but that the model expects
        return self.guard.forced_tokens(self.text)
