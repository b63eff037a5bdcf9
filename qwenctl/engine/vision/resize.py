"""How large a picture or a frame is made for the vision tower, in steps of a token's square.

Widths and heights in pixels come in, sizes in pixels go out, as the processors make them that the models were trained
with (`smart_resize` of transformers' models/qwen2_vl and models/qwen3_vl). What a picture shows is not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwenctl.engine.request_errors import MediaError

TOKEN_SIDE_PX = 32  # pixels of a token's side: patches of 16, of which 2 x 2 are merged into one token
_LARGEST_RATIO = 200  # of the sides; the reference refuses more
_MOST_PIXELS = 178_956_970  # where Pillow speaks of a decompression bomb
FRAMES_OF_A_TOKEN = 2
# Published for video (qwen-vl-utils, and video_preprocessor_config.json): tokens of a frame, pixels of all frames.
MOST_FRAME_TOKENS = 768
_LEAST_CLIP_PIXELS, _MOST_CLIP_PIXELS = 4 * TOKEN_SIDE_PX**2, 24 * 1024 * TOKEN_SIDE_PX**2


@dataclass(frozen=True)
class Size:
    """In pixels."""

    width: int
    height: int

    @property
    def columns(self) -> int:
        """Tokens side by side."""
        return self.width // TOKEN_SIDE_PX

    @property
    def rows(self) -> int:
        """Tokens one below the other."""
        return self.height // TOKEN_SIDE_PX


def check_size(size: Size) -> None:
    """Raises BadPicture for what is so large that it is an attack, and for what is too narrow to be made smaller."""
    shown = f"{size.width:,} x {size.height:,} pixels"
    if size.width * size.height > _MOST_PIXELS:
        raise MediaError(f"is too large ({shown}): the limit is {_MOST_PIXELS:,}", "make it smaller first")
    if max(size.width, size.height) > _LARGEST_RATIO * min(size.width, size.height):
        raise MediaError(f"is too narrow ({shown})", "crop it")


def image_target_size(original: Size, least_tokens: int, most_tokens: int) -> Size:
    """The size of a picture that becomes `least_tokens` to `most_tokens` tokens, of the same shape nearly."""
    return _fitted(original, 1, least_tokens * TOKEN_SIDE_PX**2, most_tokens * TOKEN_SIDE_PX**2)


def frame_target_size(original: Size, frames: int, most_tokens: int) -> Size:
    """The size of each of `frames` frames of a clip; a pair of them becomes at most `most_tokens` tokens."""
    of_a_frame = min(most_tokens, MOST_FRAME_TOKENS) * TOKEN_SIDE_PX**2
    most = max(min(of_a_frame, _MOST_CLIP_PIXELS // frames), int(_LEAST_CLIP_PIXELS * 1.05))
    smallest = min(original.width, original.height)
    if smallest < TOKEN_SIDE_PX:
        scale = TOKEN_SIDE_PX / smallest
        original = Size(int(original.width * scale), int(original.height * scale))
    return _fitted(original, frames, _LEAST_CLIP_PIXELS, most * frames)


def _fitted(original: Size, frames: int, least: int, most: int) -> Size:
    """With sides that are whole tokens, and from `least` to `most` pixels in all frames."""
    width, height = original.width, original.height
    wide, high = round(width / TOKEN_SIDE_PX) * TOKEN_SIDE_PX, round(height / TOKEN_SIDE_PX) * TOKEN_SIDE_PX
    counted = round(frames / FRAMES_OF_A_TOKEN) * FRAMES_OF_A_TOKEN if frames > 1 else 1
    if counted * wide * high > most:
        factor = math.sqrt(frames * width * height / most)
        wide = max(TOKEN_SIDE_PX, math.floor(width / factor / TOKEN_SIDE_PX) * TOKEN_SIDE_PX)
        high = max(TOKEN_SIDE_PX, math.floor(height / factor / TOKEN_SIDE_PX) * TOKEN_SIDE_PX)
    elif counted * wide * high < least:
        factor = math.sqrt(least / (frames * width * height))
        wide, high = (
            math.ceil(width * factor / TOKEN_SIDE_PX) * TOKEN_SIDE_PX,
            math.ceil(height * factor / TOKEN_SIDE_PX) * TOKEN_SIDE_PX,
        )
    return Size(wide, high)
