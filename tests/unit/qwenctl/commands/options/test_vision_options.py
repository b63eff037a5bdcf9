"""The options for images and videos become `MediaOptions`; what cannot be is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import typer

from qwenctl.commands.options.vision_options import MaxTokens, MediaOptions, with_media_options
from qwenctl.errors import QwenctlError
from qwenctl.protocol.media import VisionSettings


def given(**options: Any) -> tuple[tuple[str, ...], MediaOptions]:
    """The images and options that a command gets; what is not given has its default."""
    received: list[tuple[tuple[str, ...], MediaOptions]] = []

    def command(images: tuple[str, ...], media: MediaOptions) -> None:
        received.append((images, media))

    together = with_media_options(command)
    defaults = {name: one.default for name, one in inspect.signature(together).parameters.items()}
    together(**{**defaults, **options})
    return received[0]


def test_options_by_default_are_those_of_the_protocol() -> None:
    assert given() == ((), MediaOptions((), None, VisionSettings("", 64, 4096, 2.0, 768), allows_urls=False))


def test_options_are_taken() -> None:
    images, media = given(
        image=["a.png", "-"], mmproj=Path("m.gguf"), image_min_tokens=10, image_max_tokens=10, allow_url=True
    )
    assert (images, media.mmproj, media.allows_urls) == (("a.png", "-"), Path("m.gguf"), True)
    assert media.vision == VisionSettings("", 10, 10, 2.0, 768)


def test_more_tokens_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(QwenctlError, match="--image-min-tokens 11 is more than --image-max-tokens 10"):
        given(image_min_tokens=11, image_max_tokens=10)


def test_standard_input_can_be_one_image_only() -> None:
    with pytest.raises(QwenctlError, match="standard input can be one image only"):
        given(image=["-", "a.png", "-"])


@pytest.mark.parametrize("text", ["0", "16385", "x", "1.5"])
def test_number_of_tokens_out_of_range_is_an_error_of_usage(text: str) -> None:
    parse = MaxTokens.__metadata__[0].parser  # type: ignore[attr-defined]  # of typing.Annotated
    assert parse("16384") == 16_384
    with pytest.raises(typer.BadParameter):
        parse(text)
