"""Pictures on the command line: the options for them, and how the model is to look at them.

A command takes the options as one argument `pictures: MediaOptions`; `with_picture_options` puts them in its place.
Values of options and a job come in, a job with pictures goes out. What a picture holds is the engine's business.
"""

from __future__ import annotations

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

_MOST_TOKENS = 16_384  # of a picture, as published: 16,777,216 pixels
_MOST_FPS, _MOST_FRAMES = 120, 100_000


@dataclass(frozen=True)
class MediaOptions:
    """What was asked for; `vision` still without the file."""

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
LeastTokens = Annotated[
    int, _number("Minimum tokens per image; smaller images are enlarged.", "--image-min-tokens", 1, _MOST_TOKENS)
]
MostTokens = Annotated[
    int, _number("Maximum tokens per image; larger images are scaled down.", "--image-max-tokens", 1, _MOST_TOKENS)
]
Fps = Annotated[float, _number("Frames per second to take from a video.", "--fps", 0, _MOST_FPS, whole=False)]
MaxFrames = Annotated[int, _number("Maximum frames to take from a video.", "--max-frames", 1, _MOST_FRAMES)]
AllowUrl = Annotated[bool, typer.Option("--allow-url", help="Download images and videos given as URLs.")]


def _looking(
    mmproj: Mmproj = None,
    image_min_tokens: LeastTokens = 64,
    image_max_tokens: MostTokens = 4096,
    fps: Fps = 2.0,
    max_frames: MaxFrames = 768,
    allow_url: AllowUrl = False,
) -> MediaOptions:
    """The options of how pictures are looked at, and what becomes of them."""
    least, most = image_min_tokens, image_max_tokens
    if least > most:
        raise QwenctlError(
            f"--image-min-tokens {least} is more than --image-max-tokens {most}", "leave one of them out"
        )
    return MediaOptions((), mmproj, VisionSettings("", least, most, fps, max_frames), allow_url)


def _sending(image: Images = None) -> tuple[str, ...]:
    images = tuple(image or ())
    if images.count(STANDARD_INPUT) > 1:
        raise QwenctlError("standard input can be one image only", "use -i - only once")
    return images


def with_vision_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, which takes `pictures: MediaOptions`, with the options in its place of how pictures are seen."""
    return with_options("pictures", _looking, command)


def with_picture_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a command that takes `images` too, the pictures to send."""
    return with_options("images", _sending, with_vision_options(command))
