"""A conversation as tokens, by the model's own chat template; text from outside never becomes a control token.

Messages and tools come in, token ids go out. The template is rendered with a placeholder for each text that a user, a
file, a tool or the model supplied (see `Placeholders`), so that the tokenizer can tell those texts from the template's
own.
"""

from __future__ import annotations

import json
import re
import resource
import secrets
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

import jinja2
import psutil
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwenctl.engine.llama.common_prefix import common_prefix_length
from qwenctl.engine.llama.tokenizer import TemplateSegment, Tokenizer
from qwenctl.engine.prompt.media_tokens import (
    MEDIA_PAD_TOKENS,
    ExpandedPrompt,
    expand_media_tokens,
    expand_video_timestamps,
)
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.encoder import VisionState
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, RequestFailed, ToolCall, Tools


@contextmanager
def resource_limits(seconds: float, n_bytes: int) -> Iterator[None]:
    """Limit the block to `seconds` of CPU time and `n_bytes` of additional memory. Raises TimeoutError or MemoryError.

    A template comes with a model file from anywhere, and Jinja's sandbox limits neither time nor memory.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + n_bytes
    previous = signal.signal(signal.SIGPROF, _raise_timeout)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def _raise_timeout(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError


_MAX_SECONDS, _MAX_BYTES, _MAX_EXPONENT = 2.0, 512 << 20, 64


@dataclass(frozen=True)
class Prompt:
    """A conversation as tokens.

    `branch_points` are the positions at which another branch of it, or its next turn, may diverge. `media_items` maps
    the index of an image's first token to the image.
    """

    tokens: list[int]
    branch_points: frozenset[int]
    media_items: Mapping[int, MediaItem] = field(default_factory=dict)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a limit on `**`: the one operator that can take hours in a single, uninterruptible call."""

    intercepted_binops = frozenset(["**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Called for `**` only. Raises SecurityError for exponents that no chat template has a use for."""
        if not (isinstance(right, int | float) and abs(right) <= _MAX_EXPONENT):
            raise SecurityError(f"a power of {right!r:.20}")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """A model's chat template, compiled in a sandbox."""

    def __init__(self, source: str, tokenizer: Tokenizer, vision: VisionState | None = None) -> None:
        """Raises RequestError for a template that is not valid Jinja."""
        self._tokenizer, self._vision = tokenizer, vision
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = to_json
        environment.globals["raise_exception"] = _raise
        with _template_errors():
            self._template = environment.from_string(source)

    def prompt(self, messages: Sequence[Message], *, think: bool, tools: Tools = ()) -> Prompt:
        """The prompt for the next answer, with its branch points.

        Raises RequestError if the template rejects the messages.
        """
        current = self._render(messages, tools, think=think, add_generation_prompt=True)
        # Later prompts diverge from this one where the template drops the thinking of earlier turns. To find out where,
        # render the turns that may come next: the common prefix ends there.
        next_turns = [[Message("assistant", "x"), Message("user", "x")]]
        if tools:  # after a tool call the thinking stays, but may be tokenized differently than it was generated
            next_turns.append([Message("assistant", "x", "x" if think else ""), Message("tool", "x")])
        next_prompts = [
            self._render([*messages, *turns], tools, think=think, add_generation_prompt=False).tokens
            for turns in next_turns
        ]
        divergences = (common_prefix_length(current.tokens, other) for other in next_prompts)
        return Prompt(current.tokens, frozenset([*current.boundaries, *divergences]), current.media_items)

    def render_once(self, messages: Sequence[Message], *, think: bool, tools: Tools = ()) -> Prompt:
        """The same prompt without branch points, for one that will not be continued: half of the work."""
        rendered = self._render(messages, tools, think=think, add_generation_prompt=True)
        return Prompt(rendered.tokens, frozenset(), rendered.media_items)

    def shared_prefix(self, messages: Sequence[Message], *, think: bool, tools: Tools = ()) -> Prompt:
        """The longest prefix of all prompts that continue these messages with a user turn."""
        # Two user turns that differ in their first character: what their prompts share is the prefix.
        continuations = ([*messages, Message("user", text)] for text in ("x", "y"))
        first, second = (
            self._render(turns, tools, think=think, add_generation_prompt=False) for turns in continuations
        )
        length = common_prefix_length(first.tokens, second.tokens)
        return Prompt(
            first.tokens[:length],
            frozenset(boundary for boundary in first.boundaries if boundary <= length),
            first.media_items,
        )

    def _render(
        self, messages: Sequence[Message], tools: Tools, *, think: bool, add_generation_prompt: bool
    ) -> ExpandedPrompt:
        """Tokenize the rendered template.

        The boundaries are the starts of the first user text and of each assistant text, and what follows an image.
        """
        placeholders = Placeholders()
        turns = [placeholders.message(message) for message in messages]
        definitions = [placeholders.tool(tool) for tool in tools]
        media = [each for message in messages for each in sorted(message.media, key=lambda media: media.at)]
        items_by_media = [self._media_items(each) for each in media]
        with _template_errors():
            rendered = self._template.render(
                messages=turns,
                tools=definitions or None,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=think,
            )
        # Templates without support for tools ignore the argument silently.
        if not all(tool.placeholder in rendered for tool in definitions):
            raise RequestError(RequestFailed("setting", "the model's chat template does not support functions"))
        segments = placeholders.split(rendered)
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


@contextmanager
def _template_errors() -> Iterator[None]:
    """Turn every way in which a template can fail into a RequestError."""
    try:
        with resource_limits(_MAX_SECONDS, _MAX_BYTES):
            yield
    except TimeoutError as error:
        raise _template_error(f"it takes more than {_MAX_SECONDS:g} s") from error
    except MemoryError as error:
        raise _template_error(f"it takes more than {_MAX_BYTES >> 20} MiB") from error
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise _template_error(str(error)) from error


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _template_error(why: str) -> RequestError:
    return RequestError(RequestFailed("template", f"the model's chat template fails: {why}"))


class Placeholders:
    """The placeholders of one prompt."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(16)
        self._segments: list[TemplateSegment] = []
        self._seen_user = False

    def message(self, message: Message) -> dict[str, Any]:
        """The message as the template expects it, with boundaries at the first user text and at each assistant text.

        Surrounding white space is stripped here: the templates of Qwen3.5 trim it, which they cannot do to a
        placeholder.
        """
        role = message.role
        boundary = role == "assistant" or (role == "user" and not self._seen_user)
        self._seen_user = self._seen_user or role == "user"
        fields: dict[str, Any] = {"role": role}
        if message.media:
            fields["content"] = self._parts(message, boundary=boundary)
        else:
            fields["content"] = self._placeholder(message.content.strip(), boundary=boundary)
        if role == "assistant":
            fields["reasoning_content"] = self._placeholder(message.thinking.strip(), boundary=True)
        if message.tool_calls:
            fields["tool_calls"] = [self._tool_call(call) for call in message.tool_calls]
        return fields

    def tool(self, tool: dict[str, Any]) -> OpaqueJson:
        """A tool definition as the template expects it: it can only write it as JSON."""
        return OpaqueJson(self._placeholder(to_json(tool)))

    def split(self, rendered: str) -> Iterator[TemplateSegment]:
        """Split the rendered template into segments, with the texts back in the place of their placeholders."""
        parts = re.split(rf"\[{self._nonce}:(\d+)\]", rendered)  # template, number, template, number, ..., template
        yield TemplateSegment(parts[0])
        for number, template in zip(parts[1::2], parts[2::2], strict=True):
            yield self._segments[int(number)]
            yield TemplateSegment(template)

    def _parts(self, message: Message, *, boundary: bool) -> list[dict[str, str]]:
        """The text and images of a message, with boundaries before the first part and after the images."""
        parts = [{"type": "text", "text": self._boundary()}] if boundary else []
        text, done = message.content.rstrip(), 0
        # Cut the text at the positions of the media, in order; text parts and media parts alternate.
        for media in sorted(message.media, key=lambda media: media.at):
            if before := text[done : media.at]:
                parts.append({"type": "text", "text": self._placeholder(before)})
            parts.append({"type": media.kind})
            done = max(done, media.at)
        rest = {"type": "text", "text": self._placeholder(text[done:], boundary=True) or self._boundary()}
        return [*parts, rest]

    def _boundary(self) -> str:
        """An empty placeholder, to mark a boundary."""
        self._segments.append(TemplateSegment("", untrusted=True, boundary=True))
        return f"[{self._nonce}:{len(self._segments) - 1}]"

    def _tool_call(self, call: ToolCall) -> dict[str, Any]:
        """A tool call in OpenAI's form, but with the arguments as a mapping, which the templates of Qwen3.5 require."""
        arguments = {self._placeholder(name): self._argument(value) for name, value in call.arguments.items()}
        return {"type": "function", "function": {"name": self._placeholder(call.name), "arguments": arguments}}

    def _argument(self, value: Any) -> Any:
        """An argument with its text replaced; the template formats numbers and booleans in its own way."""
        if isinstance(value, str):
            return self._placeholder(value)
        return self._placeholder(to_json(value)) if isinstance(value, dict | list) else value

    def _placeholder(self, text: str, *, boundary: bool = False) -> str:
        if not text:
            return ""
        self._segments.append(TemplateSegment(text, untrusted=True, boundary=boundary))
        return f"[{self._nonce}:{len(self._segments) - 1}]"


class OpaqueJson(dict[str, Any]):
    """A value whose only content, for a template, is its JSON: a placeholder."""

    def __init__(self, placeholder: str) -> None:
        super().__init__()
        self.placeholder = placeholder


def to_json(value: object, **options: Any) -> str:
    """JSON as transformers renders it in templates: no escapes for HTML or non-ASCII letters."""
    return (
        value.placeholder if isinstance(value, OpaqueJson) else json.dumps(value, **{"ensure_ascii": False, **options})
    )
