"""Detect connections that are so slow that opening a new one pays off.

Servers sometimes let one connection trickle while others run at full speed. Byte counts per connection come in; whether
the connection should be dropped goes out. Its rate over the last 8 seconds is compared with a moving average over all
connections: 20 times slower counts as stalled. The average follows the measurements, so that a network that becomes
slow as a whole is soon taken for normal.
"""

from __future__ import annotations

import time

# Time over which a rate is measured, weight of a new rate in the average, and factor below the average that is slow.
_SPAN_SECONDS, _SMOOTHING, _SLOW_FACTOR = 8.0, 0.3, 20.0
_MIN_BYTES = 1 << 20


class ThroughputMonitor:
    """The moving average of the connections' rates, in bytes per second; shared by all of them."""

    def __init__(self) -> None:
        self._average = 0.0

    def new_meter(self) -> ConnectionMeter:
        """Create the meter for one connection."""
        return ConnectionMeter(self)

    def is_slow(self, rate: float) -> bool:
        """Whether `rate` (bytes per second) is far below the average; also updates the average with it."""
        # Exponential moving average; the first rate initializes it.
        slow = rate * _SLOW_FACTOR < self._average
        self._average += _SMOOTHING * (rate - self._average) if self._average else rate
        return slow


class ConnectionMeter:
    """Measures the rate of one connection."""

    def __init__(self, monitor: ThroughputMonitor) -> None:
        self._monitor = monitor
        self._since, self._bytes = time.monotonic(), 0

    def is_slow(self, n_bytes: int) -> bool:
        """Count `n_bytes`; returns whether to drop the connection, which is evaluated once per time span."""
        self._bytes += n_bytes
        seconds = time.monotonic() - self._since
        if seconds < _SPAN_SECONDS:
            return False
        rate, self._since, self._bytes = self._bytes / seconds, time.monotonic(), 0
        return self._monitor.is_slow(rate)

    def finish(self) -> None:
        """Include a connection that has finished its range in the average."""
        if self._bytes >= _MIN_BYTES:  # for less, the round trip dominates the time
            self._monitor.is_slow(self._bytes / max(0.001, time.monotonic() - self._since))
