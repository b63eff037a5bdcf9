"""Images in a prompt: the one pad token that the template writes for each is replaced by the image's own tokens.

Rendered segments and media items come in, segments with timestamps go out; then tokens with pads come in, and tokens
with images in their places go out. Vision tokens in untrusted text are plain text and never pads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qwenctl.engine.llama.tokenizer import TemplateSegment
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.messages import RequestFailed

_IMAGE_PAD, _VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
MEDIA_PAD_TOKENS = {"image": _IMAGE_PAD, "video": _VIDEO_PAD}
_VIDEO = re.compile(re.escape(f"<|vision_start|>{_VIDEO_PAD}<|vision_end|>"))


@dataclass(frozen=True)
class ExpandedPrompt:
    """Tokens, the boundaries in them, and each image by the index of its first token."""

    tokens: list[int]
    boundaries: list[int]
    media_items: Mapping[int, MediaItem]


def expand_video_timestamps(
    segments: Iterable[TemplateSegment], videos: Iterable[Sequence[MediaItem]]
) -> Iterator[TemplateSegment]:
    """Write each video in the form that the models were trained on: a timestamp before each pair of frames."""
    remaining = iter(videos)

    def with_timestamps(_video: re.Match[str]) -> str:
        pads = (
            f"<{item.seconds:.1f} seconds><|vision_start|>{_VIDEO_PAD}<|vision_end|>" for item in next(remaining, ())
        )
        return "".join(pads)

    for segment in segments:
        yield segment if segment.untrusted else replace(segment, text=_VIDEO.sub(with_timestamps, segment.text))


def expand_media_tokens(
    tokens: Sequence[int],
    boundaries: Sequence[int],
    pads: Mapping[str, int],
    media_items: Sequence[MediaItem],
    encoder: str,
) -> ExpandedPrompt:
    """Replace each pad in `tokens` by the tokens of the next media item, and move `boundaries` accordingly.

    `pads` maps media kinds to their pad tokens; `encoder` identifies the vision encoder. Raises RequestError if the
    template did not write exactly one pad for each item, in order.
    """
    kinds = {token: kind for kind, token in pads.items()}
    pad_indices = [at for at, token in enumerate(tokens) if token in kinds]
    if [kinds[tokens[at]] for at in pad_indices] != [item.media.kind for item in media_items]:
        raise RequestError(RequestFailed("template", "the model's chat template has no place for these images"))
    expanded: list[int] = []
    item_by_index: dict[int, MediaItem] = {}
    shifts: list[tuple[int, int]] = []  # (index in `tokens`, total shift of the boundaries from there on), ascending
    done = 0
    for at, item in zip(pad_indices, media_items, strict=True):
        expanded += tokens[done:at]
        item_by_index[len(expanded)] = item
        expanded += item.placeholder_ids(encoder)
        done = at + 1
        shifts.append((done, len(expanded) - done))
    moved_boundaries = [
        boundary + next((by for start, by in reversed(shifts) if start <= boundary), 0) for boundary in boundaries
    ]
    return ExpandedPrompt([*expanded, *tokens[done:]], moved_boundaries, item_by_index)
