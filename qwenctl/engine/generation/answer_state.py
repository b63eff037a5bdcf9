"""One answer, token by token: what is said by a token, what must follow it, and when it is the last.

Tokens come in, text and the next tokens go out. Who evaluates them, alone or among others, is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from qwenctl.engine.model import Model
from qwenctl.engine.sampling.detokenizer import AnswerText
from qwenctl.engine.sampling.sampler import Sampler
from qwenctl.engine.sampling.stop_conditions import AnswerGuard
from qwenctl.protocol.messages import Channel, FinishReason, Generate, Token


class AnswerSteps:
    """The steps of one answer. `text` splits it into channels, `guard` ends it, `sampler` draws its tokens."""

    def __init__(self, model: Model, request: Generate, sampler: Sampler) -> None:
        constrained = bool(request.grammar or request.json_schema)
        self._model, self._sampler, self._constrained = model, sampler, constrained
        self._left = request.max_tokens
        self._forced = deque[int]()
        self.guard = AnswerGuard(model.closing_tokens, request.think_budget)
        # A grammar begins where the thinking ends, so that no call may come before that.
        self.text = AnswerText(
            model.pieces,
            model.thinking_end,
            thinking=request.think,
            call_begin=model.call_begin if request.tools else None,
            in_thinking=not constrained,
        )

    @property
    def is_forced(self) -> bool:
        """Whether the token that follows is known, whatever the model says."""
        return bool(self._forced)

    def next(self, row: int = -1) -> int:
        """The token that follows, by the logits of the token at `row` of the last batch."""
        if self._forced:
            return self._forced.popleft()
        return self._sampler.sample(free=self.text.channel == "thinking", row=row)

    def say(self, token: int, *, has_room: bool) -> tuple[list[Token], int, FinishReason | None]:
        """The text that `token` makes whole, the token to evaluate, and why the answer ends, if it does.

        `has_room` says whether the context can take one more token.
        """
        channel = self.text.channel
        if self._model.turn_ends[token]:
            if channel != "thinking":
                return [], token, "stop"
            self._forced.extend(self._model.ending_tokens)  # it has stopped thinking, but has not answered yet
            token = self._forced.popleft()
        said = self.text.feed(token)
        self._left -= 1
        return said, token, self._ending(channel, token, has_room)

    def _ending(self, channel: Channel, token: int, has_room: bool) -> FinishReason | None:
        if self._left == 0:
            return "length"
        if not has_room:
            return "context"
        if not self._forced:
            if self.guard.must_stop(channel, token):
                return "loop"
            if channel == "thinking":  # nothing must follow in an answer
                self._forced.extend(self._forced_after())
        return None

    def _forced_after(self) -> Sequence[int]:
        """The tokens that must follow one of the thinking; mostly none."""
        if self.text.channel == "answer" and self._constrained:
            return self._model.after_thinking  # white space that no grammar knows of, but that the model expects
        return self.guard.closing(self.text)
