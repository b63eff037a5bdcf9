"""What the engine cannot do: raised anywhere in the child, sent to the program by `worker`."""

from __future__ import annotations

from qwenctl.protocol.messages import RequestFailed


class RequestError(Exception):
    """Carries the `RequestFailed` event that answers the request."""

    def __init__(self, failed: RequestFailed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class MediaError(Exception):
    """A picture or a clip that cannot be used: why, and what can be done about it."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.why, self.hint = why, hint
