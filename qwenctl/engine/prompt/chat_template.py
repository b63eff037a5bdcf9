"""A conversation as tokens: the model's own chat template, and no control token that the template did not write.

Messages and functions come in, token ids go out. The template is rendered with a marker in the place of each text that
a person, a file, a function or the model supplied (see `markers`), so that the tokenizer can tell them apart from what
the template wrote.
"""

from __future__ import annotations

import resource
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

from qwenctl.engine.llama.tokens import common_prefix_length
from qwenctl.engine.prompt.media_tokens import (
    MEDIA_PAD_TOKENS,
    ExpandedPrompt,
    expand_media_tokens,
    expand_video_timestamps,
)
from qwenctl.engine.prompt.placeholders import Placeholders, to_json
from qwenctl.engine.prompt.tokenizer import Tokenizer
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.encoder import VisionState
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, RequestFailed, Tools


@contextmanager
def resource_limits(seconds: float, n_bytes: int) -> Iterator[None]:
    """Allow `seconds` of CPU time and `n_bytes` more memory than now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + n_bytes
    before = signal.signal(signal.SIGPROF, _time_is_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _time_is_up(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError


_MOST_SECONDS, _MOST_BYTES, _HIGHEST_POWER = 2.0, 512 << 20, 64


@dataclass(frozen=True)
class Prompt:
    """A conversation as tokens. `marks` are positions at which another branch of it, or its next turn, may part.

    `views` are the pictures in it, by the position of their first token.
    """

    tokens: list[int]
    branch_points: frozenset[int]
    views: Mapping[int, MediaItem] = field(default_factory=dict)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox without the one operator that can take hours inside a single call, where nothing stops it."""

    intercepted_binops = frozenset(["**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Only `**`. Raises SecurityError for powers that no template of a chat has a use for."""
        if not (isinstance(right, int | float) and abs(right) <= _HIGHEST_POWER):
            raise SecurityError(f"a power of {right!r:.20}")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """The chat template of a model, compiled in a sandbox."""

    def __init__(self, source: str, tokenizer: Tokenizer, sight: VisionState | None = None) -> None:
        """Raises RequestFailure for a template that is not valid Jinja."""
        self._tokenizer, self._sight = tokenizer, sight
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = to_json
        environment.globals["raise_exception"] = _raise
        with _guarded():
            self._template = environment.from_string(source)

    def prompt(self, messages: Sequence[Message], *, think: bool, tools: Tools = ()) -> Prompt:
        """The prompt that asks for the next answer. Raises RequestFailure if the template refuses the messages."""
        asked = self._render(messages, tools, think=think, asks=True)
        # Where later prompts will part from this one: templates leave the thinking out of earlier turns.
        later = [[Message("assistant", "x"), Message("user", "x")]]
        if tools:  # and in a turn that calls functions it stays, but may be written in other tokens than it was said
            later.append([Message("assistant", "x", "x" if think else ""), Message("tool", "x")])
        following = [self._render([*messages, *turns], tools, think=think, asks=False).tokens for turns in later]
        parting = (common_prefix_length(asked.tokens, other) for other in following)
        return Prompt(asked.tokens, frozenset([*asked.boundaries, *parting]), asked.views)

    def render_once(self, messages: Sequence[Message], *, think: bool, tools: Tools = ()) -> Prompt:
        """The same prompt without its marks, where nothing will go on from it: a half of the work."""
        asked = self._render(messages, tools, think=think, asks=True)
        return Prompt(asked.tokens, frozenset(), asked.views)

    def shared_prefix(self, messages: Sequence[Message], *, think: bool, tools: Tools = ()) -> Prompt:
        """The beginning that every prompt has in common that goes on from these messages with a user's turn."""
        nexts = ([*messages, Message("user", text)] for text in ("x", "y"))
        one, other = (self._render(turns, tools, think=think, asks=False) for turns in nexts)
        length = common_prefix_length(one.tokens, other.tokens)
        return Prompt(one.tokens[:length], frozenset(begin for begin in one.boundaries if begin <= length), one.views)

    def _render(self, messages: Sequence[Message], tools: Tools, *, think: bool, asks: bool) -> ExpandedPrompt:
        """The tokens, and where in them the first user's text begins, each assistant's, and what follows a picture."""
        markers = Placeholders()
        turns = [markers.message(message) for message in messages]
        shown = [markers.tool(tool) for tool in tools]
        media = [each for message in messages for each in sorted(message.media, key=lambda media: media.at)]
        seen = [self._views(each) for each in media]
        with _guarded():
            rendered = self._template.render(
                messages=turns, tools=shown or None, add_generation_prompt=asks, enable_thinking=think
            )
        if not all(tool.marker in rendered for tool in shown):
            raise RequestError(RequestFailed("setting", "the model's chat template does not support functions"))
        clips = (views for each, views in zip(media, seen, strict=True) if each.kind == "video")
        tokens, begins = self._tokenizer.tokenize_segments(expand_video_timestamps(markers.split(rendered), clips))
        if not media or self._sight is None:
            return ExpandedPrompt(tokens, begins, {})
        views = [view for each in seen for view in each]
        return expand_media_tokens(tokens, begins, self._pads(), views, self._sight.tower)

    def _views(self, media: Media) -> Sequence[MediaItem]:
        if self._sight is None:
            raise RequestError(RequestFailed("mmproj", "this model does not support images"))
        return self._sight.views(media)

    def _pads(self) -> dict[str, int]:
        """The pad tokens by the kind of media. Raises RequestFailure if the vocabulary has none."""
        found = {kind: self._tokenizer.tokenize_template(text) for kind, text in MEDIA_PAD_TOKENS.items()}
        if any(len(tokens) != 1 for tokens in found.values()):
            raise RequestError(RequestFailed("media", "the model is text-only: it has no image tokens"))
        return {kind: tokens[0] for kind, tokens in found.items()}


@contextmanager
def _guarded() -> Iterator[None]:
    """Every way in which a template can fail as a RequestFailure that says so."""
    try:
        with resource_limits(_MOST_SECONDS, _MOST_BYTES):
            yield
    except TimeoutError as error:
        raise _failure(f"it takes more than {_MOST_SECONDS:g} s") from error
    except MemoryError as error:
        raise _failure(f"it takes more than {_MOST_BYTES >> 20} MiB") from error
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise _failure(str(error)) from error


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _failure(why: str) -> RequestError:
    return RequestError(RequestFailed("template", f"the model's chat template fails: {why}"))
