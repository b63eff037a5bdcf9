"""The statistics and the progress of an answer as short texts for the user.

Messages of the engine come in, texts go out. Where and how they are shown is not known here.
"""

from __future__ import annotations

from quantize.formatting import format_duration, format_rate
from qwenctl.protocol.media import Media, MediaInfo
from qwenctl.protocol.messages import GenerationFinished, PrefillProgress

_SETTLED_S = 0.5  # a rate over a shorter time is not shown


def format_statistics(finished: GenerationFinished, context_tokens: int) -> list[str]:
    """Return speed, waiting time and context use, each as a text."""
    return [*format_speeds(finished), f"context {finished.usage.context_used:,}/{context_tokens:,}"]


def format_speeds(finished: GenerationFinished) -> list[str]:
    """Return speed and waiting time, each as a text; those that were not measured are left out."""
    usage, timings = finished.usage, finished.timings
    made, read = usage.thinking_tokens + usage.answer_tokens, usage.prompt_tokens - usage.cached_tokens
    texts = []
    if made and timings.generate_s > 0:
        texts.append(f"{format_rate(made / timings.generate_s)} tokens/s")
    if timings.first_token_s > 0:  # 0 if the answer was stopped during prefill
        texts.append(f"first token {timings.first_token_s:.2f} s")
        texts += [f"prompt {format_rate(read / timings.prompt_s)}/s"] if read and timings.prompt_s > 0 else []
    return texts + format_draft_acceptance(usage.drafted_tokens, usage.accepted_tokens)


def format_draft_acceptance(drafted: int, accepted: int) -> list[str]:
    """Return one text: how many of the drafted tokens were accepted. Empty if none were drafted."""
    return [f"drafts {accepted:,} of {drafted:,} accepted"] if drafted else []


def format_prefill(progress: PrefillProgress, what: str = "the prompt") -> str:
    """Return the progress of prefill; speed and time left are shown after half a second."""
    share = progress.done / progress.total if progress.total else 1.0
    text = f"reading {what}: {share:.0%} of {progress.total:,} tokens"
    if progress.seconds < _SETTLED_S or not progress.done:
        return text
    speed = progress.done / progress.seconds
    left = round((progress.total - progress.done) / speed)
    return f"{text}, {format_rate(speed)}/s, {f'{left} s' if left < 60 else format_duration(left)} left"


def format_media_line(media: Media, info: MediaInfo) -> str:
    """Return name and size of an image or video (pixels, seconds, frames), and its length in tokens."""
    video = [f"{info.seconds:.1f} s, {info.frames:,} frames of it"] if media.kind == "video" else []
    size = f"{info.width:,} x {info.height:,}"
    return f"{media.name}: {', '.join([size, *video, f'{info.tokens:,} tokens'])}"


def format_finish_reason(finished: GenerationFinished, max_tokens: int) -> str:
    """Return why the answer was cut short; empty if the model ended it itself."""
    if finished.reason == "length":
        return f"cut at {max_tokens:,} tokens (-n)"
    if finished.reason == "context":
        return f"cut: the context of {finished.usage.context_used:,} tokens is full (-c sets its size)"
    if finished.reason == "loop":
        return "stopped: it kept repeating itself"
    return "stopped" if finished.reason == "cancelled" else ""
