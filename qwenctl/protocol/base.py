"""The base classes of all messages: requests and notifications go to the engine, events come from it.

A message is a frozen dataclass derived from one of these classes; its class name identifies it on the wire. A request
names the events that answer it, so that mypy knows the type of a reply and the program can check it at run time.
"""

from __future__ import annotations

from typing import Generic, TypeVar, get_args


class Event:
    """A message from the engine to the program."""


class Reply(Event):
    """The last event that answers a request; after it the engine takes the next request."""


EventT = TypeVar("EventT", bound=Event)


class EngineInput:
    """A message from the program to the engine."""


class Notification(EngineInput):
    """A message without an answer."""


class Request(EngineInput, Generic[EventT]):
    """A message answered by events of type `EventT`, the last of them a `Reply`, or by RequestFailed.

    `EventT` is one class or a union of several.
    """

    @classmethod
    def event_types(cls) -> tuple[type[EventT], ...]:
        """Return the classes of the events that answer this request, read from its base `Request[...]`."""
        (base,) = vars(cls)["__orig_bases__"]
        (events,) = get_args(base)
        return get_args(events) or (events,)
