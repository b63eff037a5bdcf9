"""What the program needs of an engine, whatever is behind it: the chat and the pipe are written against this.

`client.Engine` is the real one, with the model in a child process; a test may bring its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qwenctl.protocol.load import LoadParams, LoadProgress, ModelInfo
from qwenctl.protocol.media import Media, MediaInfo, VisionSettings
from qwenctl.protocol.messages import (
    EngineStats,
    Flushed,
    Generate,
    GenerationFinished,
    Message,
    PrefillProgress,
    PrefixReady,
    Restored,
    TextDelta,
    Tools,
)


class InferenceEngine(Protocol):
    """Every method raises QwenctlError; after one with ENGINE_CRASHED only `close` may follow."""

    def load(self, path: Path, settings: LoadParams) -> Iterator[LoadProgress | ModelInfo]:
        """Load a model: progress, and at last what was loaded."""

    def generate(self, request: Generate) -> Iterator[PrefillProgress | TextDelta | GenerationFinished]:
        """Answer: progress of reading the prompt, pieces of text, and at last the end."""

    def warm_prefix(
        self, messages: tuple[Message, ...], *, think: bool, tools: Tools = (), keep: Path | None = None
    ) -> None:
        """Read ahead, in the background, what the next prompt of this conversation will begin with; `keep` the state.

        It ends when anything else is asked for; the state is only kept if all was read.
        """

    def read_prefix(
        self, messages: tuple[Message, ...], *, keep: Path, tools: Tools = ()
    ) -> Iterator[PrefillProgress | PrefixReady]:
        """Read what every prompt with this beginning has in common, and keep its state in the file `keep`.

        After a cancel, or a crash on the way, the same reading goes on from what is kept, if that is restored first.
        """

    def restore(self, path: Path) -> Restored:
        """Go on from a kept state."""

    def count(self, text: str) -> int:
        """How many tokens `text` is."""

    def count_prompt(self, messages: tuple[Message, ...], *, think: bool, tools: Tools = ()) -> int:
        """How many tokens the prompt for the next answer would be."""

    def configure_vision(self, vision: VisionSettings) -> None:
        """Say how the model is to look at pictures; what is wrong with that is told when one is looked at."""

    def inspect_media(self, media: Media) -> MediaInfo:
        """What the model would see of a picture or a clip, and what that costs."""

    def flush(self) -> Flushed:
        """Wait until all that is to be kept is on the disk."""

    def cancel(self) -> None:
        """Stop what is running; may be called from a signal handler."""

    def stats(self) -> EngineStats:
        """The state between two answers."""

    def close(self) -> None:
        """End the engine; may be called twice."""


@dataclass(frozen=True)
class LoadedEngine:
    """An engine with a model in it."""

    engine: InferenceEngine
    loaded: ModelInfo
