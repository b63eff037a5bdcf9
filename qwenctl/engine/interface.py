"""What the program needs of an engine: to send it a message, to hear the events that answer it, to stop it.

Everything else is made of these here, a method for each request. `client.Engine` is the real engine, with the model in
a child process; a test may bring its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qwenctl.protocol.base import EventT, Notification, Request
from qwenctl.protocol.load import Load, LoadParams, LoadProgress, ModelInfo
from qwenctl.protocol.media import ConfigureVision, InspectMedia, Media, MediaInfo, VisionSettings
from qwenctl.protocol.messages import (
    Count,
    CountPrompt,
    EngineStats,
    Flush,
    Flushed,
    Generate,
    GenerationFinished,
    Message,
    PrefillPrefix,
    PrefillProgress,
    PrefixReady,
    Restore,
    Restored,
    RunBenchmark,
    Stats,
    TextDelta,
    Tools,
    WarmPrefix,
)


class InferenceEngine(Protocol):
    """Every method raises QwenctlError; after one with ENGINE_CRASHED only `close` may follow."""

    def stream(self, request: Request[EventT]) -> Iterator[EventT]:
        """The events that answer `request`, as they come."""

    def notify(self, message: Notification) -> None:
        """Send what is answered by nothing."""

    def cancel(self) -> None:
        """Stop what is running; may be called from a signal handler."""

    def close(self) -> None:
        """End the engine; may be called twice."""

    def ask(self, request: Request[EventT]) -> EventT:
        """The event that answers a `request` which has but one."""
        [reply] = self.stream(request)
        return reply

    def load(self, path: Path, settings: LoadParams) -> Iterator[LoadProgress | ModelInfo]:
        """Load a model: progress, and at last what was loaded."""
        return self.stream(Load(str(path), settings))

    def generate(self, request: Generate) -> Iterator[PrefillProgress | TextDelta | GenerationFinished]:
        """Answer: progress of reading the prompt, pieces of text, and at last the end."""
        return self.stream(request)

    def warm_prefix(
        self, messages: tuple[Message, ...], *, enable_thinking: bool, tools: Tools = (), state_path: Path | None = None
    ) -> None:
        """Read ahead, in the background, what the next prompt of this conversation will begin with; save its state.

        It stops when another request comes. The state goes to the file `state_path`, only if all was evaluated.
        """
        self.notify(WarmPrefix(messages, enable_thinking, str(state_path or ""), tools))

    def read_prefix(
        self, messages: tuple[Message, ...], *, state_path: Path, tools: Tools = ()
    ) -> Iterator[PrefillProgress | PrefixReady]:
        """Read what every prompt with this beginning has in common, and save its state in `state_path`.

        After a cancel, or a crash on the way, the same reading goes on from what is kept, if that is restored first.
        """
        return self.stream(PrefillPrefix(messages, str(state_path), tools))

    def restore(self, path: Path) -> Restored:
        """Go on from the state that is kept in the file `path`."""
        return self.ask(Restore(str(path)))

    def count(self, text: str) -> int:
        """How many tokens `text` is."""
        return self.ask(Count(text)).tokens

    def count_prompt(self, messages: tuple[Message, ...], *, enable_thinking: bool, tools: Tools = ()) -> int:
        """How many tokens the prompt for the next answer would be."""
        return self.ask(CountPrompt(messages, enable_thinking, tools)).tokens

    def configure_vision(self, vision: VisionSettings) -> None:
        """Say how the model is to look at pictures; what is wrong with that is told when one is looked at."""
        self.notify(ConfigureVision(vision))

    def inspect_media(self, media: Media) -> MediaInfo:
        """What the model would see of a picture or a clip, and what that costs."""
        return self.ask(InspectMedia(media))

    def flush(self) -> Flushed:
        """Wait until all that is to be kept is on the disk."""
        return self.ask(Flush())

    def stats(self) -> EngineStats:
        """The state between two answers."""
        return self.ask(Stats())

    def measure(self, *, prompt: int = 0, generate: int = 0, depth: int = 0) -> float:
        """Seconds that so many made-up tokens take after `depth` others: `prompt` at once, `generate` one by one."""
        return self.ask(RunBenchmark(prompt, generate, depth)).seconds


@dataclass(frozen=True)
class LoadedEngine:
    """An engine with a model in it."""

    engine: InferenceEngine
    loaded: ModelInfo
