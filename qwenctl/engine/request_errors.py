"""What the engine cannot do: raised anywhere in the child, sent to the program by `worker`."""

from __future__ import annotations

from qwenctl.protocol.messages import Failed


class RequestFailure(Exception):
    """Carries the `Failed` event that answers the request."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class BadPicture(Exception):
    """A picture or a clip that cannot be used: why, and what can be done about it."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.why, self.hint = why, hint
