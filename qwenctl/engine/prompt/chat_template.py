"""A conversation as tokens, by the model's own chat template; text from outside never becomes a control token.

Messages and tools come in, token ids go out. The template runs in a process of its own (see `template_process`), which
tells for each part of the prompt whether it is the template's own or from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenctl.engine.llama.common_prefix import common_prefix_length
from qwenctl.engine.llama.tokenizer import TemplateSegment, Tokenizer
from qwenctl.engine.prompt.media_tokens import (
    MEDIA_PAD_TOKENS,
    ExpandedPrompt,
    expand_media_tokens,
    expand_video_timestamps,
)
from qwenctl.engine.prompt.render_marked import RenderRequest
from qwenctl.engine.prompt.template_process import TemplateProcess
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.encoder import VisionState
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, RequestFailed, Tools
from qwenctl.protocol.normalize_messages import is_continued, normalize_messages

_NO_VALUES: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Prompt:
    """A conversation as tokens.

    `branch_points` are the positions at which another branch of it, or its next turn, may diverge. `media_items` maps
    the index of an image's first token to the image. `thinks` says whether the answer begins with thinking.
    """

    tokens: list[int]
    branch_points: frozenset[int]
    media_items: Mapping[int, MediaItem] = field(default_factory=dict)
    thinks: bool = True


class ChatTemplate:
    """A model's chat template, compiled."""

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        vision: VisionState | None = None,
        variables: Mapping[str, Any] = _NO_VALUES,
        own: Mapping[str, Any] = _NO_VALUES,
    ) -> None:
        """`variables` from outside and the model's `own`, such as `bos_token`, are seen by the template.

        Raises RequestError for a template that is not valid Jinja.
        """
        self._tokenizer, self._vision, self._variables, self._own = tokenizer, vision, variables, own
        self._process = TemplateProcess(source, tokenizer.special_texts)
        opening, closing = (tokenizer.tokenize_template(text) for text in ("<think>", "</think>"))
        self._think_tokens = {tuple(opening): True, tuple(closing): False}

    def prompt(
        self, messages: Sequence[Message], *, think: bool, tools: Tools = (), variables: Mapping[str, Any] = _NO_VALUES
    ) -> Prompt:
        """The prompt for the next answer, with its branch points.

        `variables` are added to those of the template. Raises RequestError if the template rejects the messages.
        """
        current = self.render_once(messages, think=think, tools=tools, variables=variables)
        if is_continued(messages):
            return current
        # Later prompts diverge from this one where the template drops the thinking of earlier turns. To find out where,
        # render the turns that may come next: the common prefix ends there.
        next_turns = [[Message("assistant", "x"), Message("user", "x")]]
        if tools:  # after a tool call the thinking stays, but may be tokenized differently than it was generated
            next_turns.append([Message("assistant", "x", "x" if think else ""), Message("tool", "x")])
        next_prompts = [
            self._render([*messages, *turns], tools, variables, think=think, is_next=False).tokens
            for turns in next_turns
        ]
        divergences = (common_prefix_length(current.tokens, other) for other in next_prompts)
        branch_points = current.branch_points.union(divergences)
        return Prompt(current.tokens, branch_points, current.media_items, current.thinks)

    def render_once(
        self, messages: Sequence[Message], *, think: bool, tools: Tools = (), variables: Mapping[str, Any] = _NO_VALUES
    ) -> Prompt:
        """The same prompt without next turns, for one that will not be continued: half of the work."""
        rendered = self._render(messages, tools, variables, think=think, is_next=True)
        thinks = think and not (is_continued(messages) and messages[-1].content.strip())
        for token in reversed(rendered.tokens):  # if the prompt's end tells whether the answer begins with thinking
            if (token,) in self._think_tokens:
                thinks = self._think_tokens[(token,)]
                break
            if self._tokenizer.ends_generation(token):
                break
        return Prompt(rendered.tokens, frozenset(rendered.boundaries), rendered.media_items, thinks)

    def shared_prefix(self, messages: Sequence[Message], *, think: bool, tools: Tools = ()) -> Prompt:
        """The longest prefix of all prompts that continue these messages with a user turn."""
        # Two user turns that differ in their first character: what their prompts share is the prefix.
        continuations = ([*messages, Message("user", text)] for text in ("x", "y"))
        first, second = (self._render(turns, tools, {}, think=think, is_next=False) for turns in continuations)
        length = common_prefix_length(first.tokens, second.tokens)
        return Prompt(
            first.tokens[:length],
            frozenset(boundary for boundary in first.boundaries if boundary <= length),
            first.media_items,
        )

    def _render(
        self,
        messages: Sequence[Message],
        tools: Tools,
        variables: Mapping[str, Any],
        *,
        think: bool,
        is_next: bool,
    ) -> ExpandedPrompt:
        """Tokenize the rendered template: for the next answer, or else as a part of a later prompt.

        The boundaries are the starts of the first user text and of each assistant text, and what follows an image.
        """
        turns = normalize_messages(messages)
        continues = is_next and is_continued(turns)
        if continues and turns[-1].tool_calls:
            why = "the last message calls functions: their results must follow"
            raise RequestError(RequestFailed("template", why))
        media = [each for message in turns for each in sorted(message.media, key=lambda media: media.at)]
        items_by_media = [self._media_items(each) for each in media]
        switches = {"enable_thinking": think, "add_generation_prompt": is_next and not continues, "documents": None}
        request = RenderRequest(
            messages=[template_message(message) for message in turns],
            tools=tools,
            variables={**self._variables, **variables},
            own={**self._own, **switches},
            continues=continues,
        )
        segments: Iterable[TemplateSegment] = (TemplateSegment(*each) for each in self._process.render(request))
        if media:
            videos = (items for each, items in zip(media, items_by_media, strict=True) if each.kind == "video")
            segments = expand_video_timestamps(segments, videos)
        tokens, boundaries = self._tokenizer.tokenize_segments(segments)
        if not media or self._vision is None:
            return ExpandedPrompt(tokens, boundaries, {})
        items = [item for each in items_by_media for item in each]
        return expand_media_tokens(tokens, boundaries, self._pad_tokens(), items, self._vision.encoder_fingerprint)

    def _media_items(self, media: Media) -> Sequence[MediaItem]:
        if self._vision is None:
            raise RequestError(RequestFailed("mmproj", "this model does not support images"))
        return self._vision.media_items(media)

    def _pad_tokens(self) -> dict[str, int]:
        """The pad token of each media kind. Raises RequestError if the vocabulary has none."""
        tokens_by_kind = {kind: self._tokenizer.tokenize_template(text) for kind, text in MEDIA_PAD_TOKENS.items()}
        if any(len(tokens) != 1 for tokens in tokens_by_kind.values()):
            raise RequestError(RequestFailed("media", "the model is text-only: it has no image tokens"))
        return {kind: tokens[0] for kind, tokens in tokens_by_kind.items()}


def template_message(message: Message) -> dict[str, Any]:
    """The message as templates expect it: in OpenAI's format, but with the arguments of calls as mappings."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.media:
        fields["content"] = _content_parts(message)
    if message.role == "assistant":
        fields["reasoning_content"] = message.thinking
    if message.tool_calls:
        fields["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return fields


def _content_parts(message: Message) -> list[dict[str, str]]:
    """The text and the media of a message: the text is cut at their positions."""
    parts, done = [], 0
    for media in sorted(message.media, key=lambda media: media.at):
        if before := message.content[done : media.at]:
            parts.append({"type": "text", "text": before})
        parts.append({"type": media.kind})
        done = max(done, media.at)
    rest = message.content[done:]
    return [*parts, {"type": "text", "text": rest}] if rest else parts
