"""An answer in figures: how far the reading of its prompt is, and what it cost, as short texts for a person.

Messages of the engine come in, texts go out; how they are laid out and where they are shown is the caller's business.
"""

from __future__ import annotations

from quantize.formatting import format_duration, format_rate
from qwenctl.protocol.media import Media, MediaInfo
from qwenctl.protocol.messages import GenerationFinished, PrefillProgress

_SETTLED_S = 0.5  # before that a rate says nothing


def figures(finished: GenerationFinished, context_tokens: int) -> list[str]:
    """Speed, waiting time and context use, each as a text of its own."""
    return [*speeds(finished), f"context {finished.usage.context_used:,}/{context_tokens:,}"]


def speeds(finished: GenerationFinished) -> list[str]:
    """Speed and waiting time, each as a text of its own."""
    usage, timings = finished.usage, finished.timings
    made, read = usage.thinking_tokens + usage.answer_tokens, usage.prompt_tokens - usage.cached_tokens
    texts = []
    if made and timings.generate_s > 0:
        texts.append(f"{format_rate(made / timings.generate_s)} tokens/s")
    if timings.first_token_s > 0:  # else the prompt was not all read
        texts.append(f"first token {timings.first_token_s:.2f} s")
        texts += [f"prompt {format_rate(read / timings.prompt_s)}/s"] if read and timings.prompt_s > 0 else []
    return texts + drafting(usage.drafted_tokens, usage.accepted_tokens)


def drafting(drafted: int, accepted: int) -> list[str]:
    """How many tokens were drafted ahead, and how many of them were right; nothing if none were."""
    return [f"drafts {accepted:,} of {drafted:,} accepted"] if drafted else []


def reading(progress: PrefillProgress, what: str = "the prompt") -> str:
    """How far the reading is, and how long it will take yet."""
    share = progress.done / progress.total if progress.total else 1.0
    text = f"reading {what}: {share:.0%} of {progress.total:,} tokens"
    if progress.seconds < _SETTLED_S or not progress.done:
        return text
    speed = progress.done / progress.seconds
    left = round((progress.total - progress.done) / speed)
    return f"{text}, {format_rate(speed)}/s, {f'{left} s' if left < 60 else format_duration(left)} left"


def format_media_line(media: Media, seen: MediaInfo) -> str:
    """What a picture or a clip is, and what it costs."""
    clip = [f"{seen.seconds:.1f} s, {seen.frames:,} frames of it"] if media.kind == "video" else []
    size = f"{seen.width:,} x {seen.height:,}"
    return f"{media.name}: {', '.join([size, *clip, f'{seen.tokens:,} tokens'])}"


def ending(finished: GenerationFinished, max_tokens: int) -> str:
    """Why the answer ended, where it did not end by itself; otherwise nothing."""
    if finished.reason == "length":
        return f"cut at {max_tokens:,} tokens (-n)"
    if finished.reason == "context":
        return f"cut: the context of {finished.usage.context_used:,} tokens is full (-c sets its size)"
    if finished.reason == "loop":
        return "stopped: it kept repeating itself"
    return "stopped" if finished.reason == "cancelled" else ""
