"""The messages about images and videos: which a turn contains, how they are processed, how many tokens they take.

Plain values; how an image is decoded or encoded is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwenctl.protocol.base import Notification, Reply, Request


@dataclass(frozen=True)
class Media:
    """An image or video in a message: the path of its `file`, the hash of its content, and the user's name for it.

    It precedes the character at index `at` of the message's content; several at one index keep their order.
    """

    kind: Literal["image", "video"]
    file: str
    sha256: str
    name: str
    at: int = 0


@dataclass(frozen=True)
class VisionSettings:
    """Settings of the vision encoder: the path of its `mmproj` file ("": none) and the resolution of its input.

    An image becomes `image_min_tokens` to `image_max_tokens` tokens; a video is sampled at `video_fps` frames per
    second, up to `video_max_frames` frames. `mmproj_choices` are the files among which the user must choose before an
    image can be sent, if there are several.
    """

    mmproj: str = ""
    image_min_tokens: int = 64
    image_max_tokens: int = 4096
    video_fps: float = 2.0
    video_max_frames: int = 768
    mmproj_choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConfigureVision(Notification):
    """Use these vision settings from now on; errors in them are reported when an image is processed."""

    vision: VisionSettings


@dataclass(frozen=True)
class MediaInfo(Reply):
    """Size in pixels and number of tokens of an image or video.

    For a video also its length in seconds and the number of sampled `frames`.
    """

    width: int
    height: int
    tokens: int
    frames: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class InspectMedia(Request[MediaInfo]):
    """Ask for the size of an image or video, and the number of tokens it takes."""

    media: Media
