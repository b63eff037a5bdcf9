"""The messages about pictures and clips: which a turn has, how they are looked at, what they cost.

Part of the protocol: plain values, which say nothing of how a picture is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwenctl.protocol.base import Notification, Reply, Request


@dataclass(frozen=True)
class Media:
    """A picture or a clip in a message: its `file`, what it holds by its hash, and what a person calls it.

    It stands before the character `at` of the message's content; several at one place are seen in their order.
    """

    kind: Literal["image", "video"]
    file: str
    sha256: str
    name: str
    at: int = 0


@dataclass(frozen=True)
class VisionSettings:
    """How pictures are looked at: the file of the vision tower ("": there is none), and how much of them is seen.

    A picture becomes `image_min_tokens` to `image_max_tokens` tokens; of a clip `video_fps` frames a second are seen,
    `video_max_frames` at most.
    """

    mmproj: str = ""
    image_min_tokens: int = 64
    image_max_tokens: int = 4096
    video_fps: float = 2.0
    video_max_frames: int = 768


@dataclass(frozen=True)
class ConfigureVision(Notification):
    """Look at pictures so from now on. What is wrong with it is told when one is looked at."""

    vision: VisionSettings


@dataclass(frozen=True)
class MediaInfo(Reply):
    """A picture or a clip of `width` x `height` pixels costs `tokens`; `frames` of the `seconds` of a clip are seen."""

    width: int
    height: int
    tokens: int
    frames: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class InspectMedia(Request[MediaInfo]):
    """What would the model see of this file?"""

    media: Media
