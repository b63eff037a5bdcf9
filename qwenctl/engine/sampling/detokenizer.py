"""From tokens to text: the bytes of each token, joined to whole characters, split into thinking and answer.

Token ids come in, `TextDelta` events go out. Where thinking ends and where a call of a function begins is decided by
the id of a token, never by text, so that an answer may talk about the tags, and so that a call which is only quoted is
none.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping

from qwenctl.protocol.messages import Channel, TextDelta


class StreamingDetokenizer:
    """The text of one answer. Text is passed on as soon as it is whole UTF-8.

    White space before the answer, and around the thinking, belongs to the template and is left out. From the first
    token `call_begin` on (None: there are no functions) all is the text of calls. A model may call without having
    closed its thinking; `in_thinking` says whether that counts.
    """

    def __init__(
        self,
        pieces: Mapping[int, bytes],
        thinking_end: int | None,
        *,
        thinking: bool,
        call_begin: int | None = None,
        in_thinking: bool = True,
    ) -> None:
        self._pieces, self._thinking_end, self._call_begin = pieces, thinking_end, call_begin
        self._calls_from = ("answer", "thinking") if in_thinking else ("answer",)
        self.channel: Channel = "thinking" if thinking and thinking_end is not None else "answer"
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._split = False  # the bytes so far end within a character
        self._held = ""  # white space that is only passed on if more follows
        self._begun = False
        self._pending_tokens = 0  # tokens whose text is held
        self.tokens: dict[Channel, int] = {"thinking": 0, "answer": 0, "call": 0}

    def feed(self, token: int) -> list[TextDelta]:
        """The text that `token` has made whole."""
        rest: list[TextDelta] = []
        if token == self._call_begin and self.channel in self._calls_from:
            rest = self._switch_channel("call")
        self.tokens[self.channel] += 1
        self._pending_tokens += 1
        if token == self._thinking_end and self.channel == "thinking":
            return self._switch_channel("answer")
        said = self._emit(self._decode(self._pieces[token]))
        return rest + said if rest else said

    def finish(self) -> list[TextDelta]:
        """What is left at the end: a character that was never completed."""
        self._split = False
        return self._emit(self._decoder.decode(b"", final=True))

    def _decode(self, piece: bytes) -> str:
        if not self._split and piece.isascii():  # mostly, and several times as fast
            return piece.decode("ascii")
        text = self._decoder.decode(piece)
        self._split = bool(self._decoder.getstate()[0])
        return text

    def _switch_channel(self, channel: Channel) -> list[TextDelta]:
        rest = self.finish()
        self.channel, self._held, self._begun, self._pending_tokens = channel, "", False, 0
        return rest

    def _emit(self, text: str) -> list[TextDelta]:
        if self._begun and self.channel != "thinking":  # nearly always
            return self._delta(text)
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        self._held = ""
        if self.channel == "thinking":
            shown = text.rstrip()
            text, self._held = shown, text[len(shown) :]
        self._begun = self._begun or bool(text)
        return self._delta(text)

    def _delta(self, text: str) -> list[TextDelta]:
        if not text:
            return []
        tokens, self._pending_tokens = self._pending_tokens, 0
        return [TextDelta(text, self.channel, tokens)]
