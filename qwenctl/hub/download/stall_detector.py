"""Which connection is so slow that a new one is worth its start.

A server now and then leaves one connection dripping while others run. Spans of time with the bytes that came in them go
in; what comes out is whether that is far below what connections of this fetch usually bring. The usual follows what is
measured, so that where everything becomes slow, slow soon is usual.
"""

from __future__ import annotations

import time

_SPAN_SECONDS, _WEIGHT, _FAR_BELOW = 8.0, 0.3, 20.0
_LEAST = 1 << 20


class ThroughputMonitor:
    """What connections usually bring, in bytes a second; shared by all of them."""

    def __init__(self) -> None:
        self._usual = 0.0

    def meter(self) -> ConnectionMeter:
        """The meter of one connection."""
        return ConnectionMeter(self)

    def is_slow(self, rate: float) -> bool:
        """Whether `rate` is far below the usual, which it changes."""
        slow = rate * _FAR_BELOW < self._usual
        self._usual += _WEIGHT * (rate - self._usual) if self._usual else rate
        return slow


class ConnectionMeter:
    """Measures one connection."""

    def __init__(self, pace: ThroughputMonitor) -> None:
        self._pace = pace
        self._since, self._bytes = time.monotonic(), 0

    def is_slow(self, n_bytes: int) -> bool:
        """Count bytes that came; whether the connection should be given up, asked again at each span of time."""
        self._bytes += n_bytes
        seconds = time.monotonic() - self._since
        if seconds < _SPAN_SECONDS:
            return False
        rate, self._since, self._bytes = self._bytes / seconds, time.monotonic(), 0
        return self._pace.is_slow(rate)

    def end(self) -> None:
        """Have a connection that came to its end count for what is usual."""
        if self._bytes >= _LEAST:  # the time of less is that of the round trip, not of the bytes
            self._pace.is_slow(self._bytes / max(0.001, time.monotonic() - self._since))
