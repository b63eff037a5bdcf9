"""The base classes of all messages: requests and notifications go to the engine, events come from it.

A message is a frozen dataclass that derives from one of these classes, and travels under the name of its class. A
request names the events that answer it, so that mypy knows the type of a reply, and the program can check it.
"""

from __future__ import annotations

from typing import Generic, TypeVar, get_args


class Event:
    """What the engine sends to the program."""


class Reply(Event):
    """The last event that answers a request: the engine is free for the next one."""


EventT = TypeVar("EventT", bound=Event)


class EngineInput:
    """What the program sends to the engine."""


class Notification(EngineInput):
    """What is answered by nothing."""


class Request(EngineInput, Generic[EventT]):
    """What is answered by events of the type `EventT`, the last of them a `Reply`, or by RequestFailed.

    `EventT` is one class, or the union of several.
    """

    @classmethod
    def event_types(cls) -> tuple[type[EventT], ...]:
        """The classes of the events that answer this request."""
        (base,) = vars(cls)["__orig_bases__"]
        (events,) = get_args(base)
        return get_args(events) or (events,)
