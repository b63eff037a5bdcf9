"""From tokens to text: the bytes of the tokens are joined to whole characters and split into thinking, answer and
calls.

Token ids come in, `TextDelta` events go out. Where the thinking ends and where a tool call starts is decided by token
ids, never by text, so an answer may mention the tags, and a quoted call is no call.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping

from qwenctl.protocol.messages import Channel, TextDelta

# A token with just these bytes is the control token: the merges of the vocabulary never make one of the tag's letters.
_CONTROL_TOKENS = (b"<tool_call>", b"</tool_call>")


class StreamingDetokenizer:
    """The text of one answer, emitted as soon as it is valid UTF-8.

    White space before the answer and around the thinking belongs to the template and is dropped. From the first
    `tool_call_start` token on (None: no tools), all text belongs to calls. A model may call without having closed its
    thinking; that counts only if `in_thinking`.
    """

    def __init__(
        self,
        token_bytes: Mapping[int, bytes],
        thinking_end: int | None,
        *,
        thinking: bool,
        tool_call_start: int | None = None,
        in_thinking: bool = True,
    ) -> None:
        self._token_bytes, self._thinking_end, self._tool_call_start = token_bytes, thinking_end, tool_call_start
        self._call_channels = ("answer", "thinking") if in_thinking else ("answer",)
        self.channel: Channel = "thinking" if thinking and thinking_end is not None else "answer"
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._split = False  # whether the bytes so far end inside a character
        self._held_space = ""  # white space that is only emitted if more text follows
        self._has_text = False
        self._pending_tokens = 0  # tokens whose text has not been emitted
        self.tokens: dict[Channel, int] = {"thinking": 0, "answer": 0, "call": 0}
        self._n_call_characters = 0  # emitted in the channel "call"
        self._control_offsets: list[int] = []

    @property
    def control_offsets(self) -> tuple[int, ...] | None:
        """Where the control tokens begin in the text of the calls; None without a `tool_call_start` token."""
        return tuple(self._control_offsets) if self._tool_call_start is not None else None

    def feed(self, token: int) -> list[TextDelta]:
        """The text that `token` completes."""
        rest: list[TextDelta] = []
        if token == self._tool_call_start and self.channel in self._call_channels:
            rest = self._switch_channel("call")
        self.tokens[self.channel] += 1
        self._pending_tokens += 1
        if token == self._thinking_end and self.channel == "thinking":
            return self._switch_channel("answer")
        piece = self._token_bytes[token]
        if not self._split and piece.isascii():  # the usual case; several times faster than the decoder
            text = piece.decode("ascii")
        else:
            text = self._decoder.decode(piece)
            self._split = bool(self._decoder.getstate()[0])
        deltas = self._emit(text)
        if self.channel == "call":
            self._n_call_characters += sum(len(delta.text) for delta in deltas)
            if piece in _CONTROL_TOKENS:
                self._control_offsets.append(self._n_call_characters - len(piece))
        return rest + deltas if rest else deltas

    def finish(self) -> list[TextDelta]:
        """The remaining text: an incomplete character as U+FFFD."""
        self._split = False
        return self._emit(self._decoder.decode(b"", final=True))

    def _switch_channel(self, channel: Channel) -> list[TextDelta]:
        rest = self.finish()
        self.channel, self._held_space, self._has_text, self._pending_tokens = channel, "", False, 0
        return rest

    def _emit(self, text: str) -> list[TextDelta]:
        if not self._has_text or self.channel == "thinking":  # not the hot path
            # Strip white space before the first text; in the thinking also hold back trailing white space, which is
            # dropped if nothing follows.
            text = self._held_space + text
            if not self._has_text:
                text = text.lstrip()
            self._held_space = ""
            if self.channel == "thinking":
                stripped = text.rstrip()
                text, self._held_space = stripped, text[len(stripped) :]
            self._has_text = self._has_text or bool(text)
        if not text:
            return []
        tokens, self._pending_tokens = self._pending_tokens, 0
        return [TextDelta(text, self.channel, tokens)]
