"""Pictures in a prompt: the one pad token that a template writes for each becomes the tokens of its view.

Pieces of a rendered template and views come in, pieces with times come out; then tokens with pads come in, and those
with views in their places go out. The vision tokens of a text from outside are text, and no pads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qwenctl.engine.prompt.tokenizer import TemplateSegment
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.messages import RequestFailed

_PICTURE, _CLIP = "<|image_pad|>", "<|video_pad|>"
MEDIA_PAD_TOKENS = {"image": _PICTURE, "video": _CLIP}
_WHOLE_CLIP = re.compile(re.escape(f"<|vision_start|>{_CLIP}<|vision_end|>"))


@dataclass(frozen=True)
class ExpandedPrompt:
    """Tokens, the marked begins in them, and each view by the position of its first token."""

    tokens: list[int]
    boundaries: list[int]
    views: Mapping[int, MediaItem]


def expand_video_timestamps(
    pieces: Iterable[TemplateSegment], clips: Iterable[Sequence[MediaItem]]
) -> Iterator[TemplateSegment]:
    """Each clip as the models were trained on it: the time of each pair of frames before the pair.

    Source: the processor of transformers' models/qwen3_vl, `_calculate_timestamps` and the text around it.
    """
    coming = iter(clips)

    def timed(_clip: re.Match[str]) -> str:
        pads = (f"<{view.seconds:.1f} seconds><|vision_start|>{_CLIP}<|vision_end|>" for view in next(coming, ()))
        return "".join(pads)

    for piece in pieces:
        yield piece if piece.untrusted else replace(piece, text=_WHOLE_CLIP.sub(timed, piece.text))


def expand_media_tokens(
    tokens: Sequence[int], begins: Sequence[int], pads: Mapping[str, int], views: Sequence[MediaItem], tower: str
) -> ExpandedPrompt:
    """`tokens` with each pad replaced by the tokens of the next view; `pads` are the pad tokens by kind of media.

    Raises RequestFailure if the template did not write one pad for each view.
    """
    kinds = {token: kind for kind, token in pads.items()}
    places = [at for at, token in enumerate(tokens) if token in kinds]
    if [kinds[tokens[at]] for at in places] != [view.media.kind for view in views]:
        raise RequestError(RequestFailed("template", "the model's chat template has no place for these images"))
    inlaid: list[int] = []
    placed: dict[int, MediaItem] = {}
    shifts: list[tuple[int, int]] = []  # from which token on, and by how much, positions are moved
    done = 0
    for at, view in zip(places, views, strict=True):
        inlaid += tokens[done:at]
        placed[len(inlaid)] = view
        inlaid += view.placeholder_ids(tower)
        done = at + 1
        shifts.append((done, len(inlaid) - done))
    moved = [begin + next((by for start, by in reversed(shifts) if start <= begin), 0) for begin in begins]
    return ExpandedPrompt([*inlaid, *tokens[done:]], moved, placed)
