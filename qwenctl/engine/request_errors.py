"""The errors of the child process: raised anywhere in it, and sent to the program by `worker`."""

from __future__ import annotations

from qwenctl.protocol.messages import RequestFailed


class RequestError(Exception):
    """Carries the `RequestFailed` event that answers the request."""

    def __init__(self, failed: RequestFailed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class MediaError(Exception):
    """An image or a video that cannot be used: why, and a hint what to do."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.why, self.hint = why, hint
