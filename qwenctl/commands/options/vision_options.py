"""The options for images and videos: which ones to send, and how the vision encoder processes them.

A command takes one argument `media: MediaOptions`; `with_vision_options` replaces it with the options. Option values
come in, a `MediaOptions` goes out. No file is opened here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenctl.commands.options.common import number_parser
from qwenctl.commands.options.load_options import with_options
from qwenctl.errors import QwenctlError
from qwenctl.files.media_files import STANDARD_INPUT
from qwenctl.protocol.media import VisionSettings

_MAX_TOKENS = 16_384  # per image, from the published limit of 16,777,216 pixels
_MAX_FPS, _MAX_FRAMES = 120, 100_000


@dataclass(frozen=True)
class MediaOptions:
    """The media to send and how to process them; `vision` has no mmproj file yet."""

    images: tuple[str, ...] = ()
    mmproj: Path | None = None
    vision: VisionSettings = field(default_factory=VisionSettings)
    allows_urls: bool = False


def _number(meaning: str, name: str, lowest: int, highest: int, *, whole: bool = True) -> Any:
    return typer.Option(name, metavar="N", parser=number_parser(lowest, highest, is_integer=whole), help=meaning)


Images = Annotated[
    list[str] | None,
    typer.Option(
        "-i", "--image", metavar="FILE", allow_from_autoenv=False,
        help="Image or video to send with the question, - for standard input; may be repeated.",
    ),
]  # fmt: skip
Mmproj = Annotated[
    Path | None,
    typer.Option("--mmproj", metavar="FILE", help="Vision encoder (mmproj); default: the one next to the model."),
]
MinTokens = Annotated[
    int, _number("Minimum tokens per image; smaller images are enlarged.", "--image-min-tokens", 1, _MAX_TOKENS)
]
MaxTokens = Annotated[
    int, _number("Maximum tokens per image; larger images are scaled down.", "--image-max-tokens", 1, _MAX_TOKENS)
]
Fps = Annotated[float, _number("Frames per second to take from a video.", "--fps", 0, _MAX_FPS, whole=False)]
MaxFrames = Annotated[int, _number("Maximum frames to take from a video.", "--max-frames", 1, _MAX_FRAMES)]
AllowUrl = Annotated[bool, typer.Option("--allow-url", help="Download images and videos given as URLs.")]


def _media_options(
    mmproj: Mmproj = None,
    image_min_tokens: MinTokens = 64,
    image_max_tokens: MaxTokens = 4096,
    fps: Fps = 2.0,
    max_frames: MaxFrames = 768,
    allow_url: AllowUrl = False,
) -> MediaOptions:
    """The options, as typer reads them from this signature, as `MediaOptions`. Raises QwenctlError."""
    least, most = image_min_tokens, image_max_tokens
    if least > most:
        raise QwenctlError(
            f"--image-min-tokens {least} is more than --image-max-tokens {most}", "leave one of them out"
        )
    return MediaOptions((), mmproj, VisionSettings("", least, most, fps, max_frames), allow_url)


VISION_PARAMETERS = frozenset(inspect.signature(_media_options).parameters)


def _image_arguments(image: Images = None) -> tuple[str, ...]:

    images = tuple(image or ())
    if images.count(STANDARD_INPUT) > 1:
        raise QwenctlError("-i -: standard input can be one image only", "use -i - only once")
    return images


def with_vision_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, which takes `media: MediaOptions`, with the options for processing media in place of that argument."""
    return with_options("media", _media_options, command)


def with_media_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a command that also takes `images`, the images and videos to send."""
    return with_options("images", _image_arguments, with_vision_options(command))
