"""The size to which an image or a frame is resized for the vision encoder: whole tokens on both sides.

Widths and heights in pixels come in, sizes in pixels go out, as computed by the processors with which the models were
trained (`smart_resize` of transformers' models/qwen2_vl and models/qwen3_vl). Pixels are not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwenctl.engine.request_errors import MediaError

TOKEN_SIDE_PX = 32  # a token covers 32 x 32 pixels: 2 x 2 patches of 16 x 16, merged
_MAX_ASPECT_RATIO = 200  # as in the reference
_MAX_PIXELS = 178_956_970  # Pillow's limit for a decompression bomb
FRAMES_PER_ITEM = 2
# Published for video (qwen-vl-utils, and video_preprocessor_config.json): tokens per frame, pixels of all frames.
MAX_FRAME_TOKENS = 768
_MIN_VIDEO_PIXELS, _MAX_VIDEO_PIXELS = 4 * TOKEN_SIDE_PX**2, 24 * 1024 * TOKEN_SIDE_PX**2


@dataclass(frozen=True)
class Size:
    """A size in pixels."""

    width: int
    height: int

    @property
    def columns(self) -> int:
        """The number of tokens in a row."""
        return self.width // TOKEN_SIDE_PX

    @property
    def rows(self) -> int:
        """The number of rows of tokens."""
        return self.height // TOKEN_SIDE_PX


def check_size(size: Size) -> None:
    """Raises MediaError for an image so large that it may be an attack, or too narrow to be resized."""
    shown = f"{size.width:,} x {size.height:,} pixels"
    if size.width * size.height > _MAX_PIXELS:
        raise MediaError(f"is too large ({shown}): the limit is {_MAX_PIXELS:,}", "make it smaller first")
    if max(size.width, size.height) > _MAX_ASPECT_RATIO * min(size.width, size.height):
        raise MediaError(f"is too narrow ({shown})", "crop it")


def image_target_size(original: Size, min_tokens: int, max_tokens: int) -> Size:
    """The size for an image to become `min_tokens` to `max_tokens` tokens, with nearly the same aspect ratio."""
    return _fit_size(original, 1, min_tokens * TOKEN_SIDE_PX**2, max_tokens * TOKEN_SIDE_PX**2)


def frame_target_size(original: Size, frames: int, max_tokens: int) -> Size:
    """The size of each of a video's `frames` frames; two of them become one item of at most `max_tokens` tokens."""
    frame_pixels = min(max_tokens, MAX_FRAME_TOKENS) * TOKEN_SIDE_PX**2
    max_pixels = max(min(frame_pixels, _MAX_VIDEO_PIXELS // frames), int(_MIN_VIDEO_PIXELS * 1.05))
    shorter_side = min(original.width, original.height)
    if shorter_side < TOKEN_SIDE_PX:
        scale = TOKEN_SIDE_PX / shorter_side
        original = Size(int(original.width * scale), int(original.height * scale))
    return _fit_size(original, frames, _MIN_VIDEO_PIXELS, max_pixels * frames)


def _fit_size(original: Size, frames: int, min_pixels: int, max_pixels: int) -> Size:
    """Sides of whole tokens, with `min_pixels` to `max_pixels` pixels in all `frames` frames together."""
    width, height = original.width, original.height
    # The reference's smart_resize, rounding included: other sizes would be other tokens than in training.
    fitted_width, fitted_height = (
        round(width / TOKEN_SIDE_PX) * TOKEN_SIDE_PX,
        round(height / TOKEN_SIDE_PX) * TOKEN_SIDE_PX,
    )
    padded_frames = round(frames / FRAMES_PER_ITEM) * FRAMES_PER_ITEM if frames > 1 else 1
    if padded_frames * fitted_width * fitted_height > max_pixels:
        factor = math.sqrt(frames * width * height / max_pixels)
        fitted_width = max(TOKEN_SIDE_PX, math.floor(width / factor / TOKEN_SIDE_PX) * TOKEN_SIDE_PX)
        fitted_height = max(TOKEN_SIDE_PX, math.floor(height / factor / TOKEN_SIDE_PX) * TOKEN_SIDE_PX)
    elif padded_frames * fitted_width * fitted_height < min_pixels:
        factor = math.sqrt(min_pixels / (frames * width * height))
        fitted_width, fitted_height = (
            math.ceil(width * factor / TOKEN_SIDE_PX) * TOKEN_SIDE_PX,
            math.ceil(height * factor / TOKEN_SIDE_PX) * TOKEN_SIDE_PX,
        )
    return Size(fitted_width, fitted_height)
