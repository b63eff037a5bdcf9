"""Progress of loading a model and of evaluating a prefix, on a status line.

Events of the engine come in; the last of them goes out. The status line is cleared at the end, even after an error.
"""

from __future__ import annotations

from collections.abc import Iterable

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import LoadProgress, ModelInfo
from qwenctl.protocol.messages import PrefillProgress, PrefixReady
from qwenctl.terminal.streams import StatusLine
from qwenctl.views.answer import format_prefill


def follow_loading(events: Iterable[LoadProgress | ModelInfo], status: StatusLine) -> ModelInfo:
    """Show the progress of loading in percent; return the loaded model.

    Raises QwenctlError (ENGINE_CRASHED) if the events end without a model.
    """
    try:
        for event in events:
            if isinstance(event, ModelInfo):
                return event
            status.show(f"loading the model: {event.fraction:.0%}")
    finally:
        status.clear()
    raise QwenctlError("the engine stopped without loading a model", code=ExitCode.ENGINE_CRASHED)


def follow_prefill(events: Iterable[PrefillProgress | PrefixReady], status: StatusLine) -> PrefixReady:
    """Show the progress of a prefix's prefill, in tokens and tokens/s; return its result.

    Raises QwenctlError (ENGINE_CRASHED) if the events end before the prefill does.
    """
    try:
        for event in events:
            if isinstance(event, PrefixReady):
                return event
            status.show(format_prefill(event, "the prefix"))
    finally:
        status.clear()
    raise QwenctlError("the engine stopped while it evaluated the prompt", code=ExitCode.ENGINE_CRASHED)
