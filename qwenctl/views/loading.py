"""What is shown while a model loads and while a prefix is read.

The events of the engine come in; the last of them goes out when it is there. A status line shows the progress, and is
cleared at the end, however that comes.
"""

from __future__ import annotations

from collections.abc import Iterable

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import LoadProgress, ModelInfo
from qwenctl.protocol.messages import PrefillProgress, PrefixReady
from qwenctl.terminal.streams import StatusLine
from qwenctl.views.answer import reading


def follow_loading(events: Iterable[LoadProgress | ModelInfo], status: StatusLine) -> ModelInfo:
    """Follow the loading of a model to its end, and show the share of it that is done.

    Raises QwenctlError if the events end without a model.
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
    """Follow the prefill of a prefix to its end, and show tokens and speed.

    Raises QwenctlError if the events end before that.
    """
    try:
        for event in events:
            if isinstance(event, PrefixReady):
                return event
            status.show(reading(event, "the prefix"))
    finally:
        status.clear()
    raise QwenctlError("the engine stopped while it evaluated the prompt", code=ExitCode.ENGINE_CRASHED)
