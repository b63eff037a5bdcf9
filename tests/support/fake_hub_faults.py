"""Network faults between a Hub and its client, and sending of bytes at a chosen speed with such faults."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

Kind = Literal[
    "close",
    "reset",
    "stall",
    "drip",
    "status",
    "ignore range",
    "wrong range",
    "short",
    "long",
    "flip",
    "etag",
    "portal",
    "loop",
]
_PIECE, _LARGE_PIECE, _FAST = 1 << 14, 1 << 17, 10e6  # bytes sent at once, on a slow connection and on a fast one
_DRIP, _DRIP_SECONDS = 512, 1 / 16  # a dripping connection sends 8 kB/s


@dataclass
class Fault:
    """A fault of the next `times` requests for a path that matches `path`, at `after` bytes of the body.

    `on` selects the requests: of the API, for the location of a file ("HEAD"), or for its bytes ("GET").
    """

    kind: Kind
    path: str = "*"
    times: int = 1
    after: int = 0
    on: Literal["api", "HEAD", "GET"] = "GET"
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)

    def hits(self, on: str, path: str) -> bool:
        """Whether the fault applies to this request; if so, it is counted."""
        if self.times <= 0 or self.on != on or not fnmatchcase(path, self.path):
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Wire:
    """A connection to a client. `rate` is in bytes per second, 0 for no limit; `count` is called with bytes sent."""

    connection: socket.socket
    rate: float
    count: Callable[[int], None]

    def send(self, path: Path, start: int, end: int, fault: Fault | None) -> bool:
        """Send these bytes of a file; whether the connection is intact afterwards."""
        file = os.open(path, os.O_RDONLY)
        try:
            return self._send(file, start, end, fault)
        except OSError:
            return False  # the client has gone
        finally:
            os.close(file)

    def _send(self, file: int, start: int, end: int, fault: Fault | None) -> bool:
        began, at, trouble_at = time.monotonic(), start, start + fault.after if fault else end
        most = _LARGE_PIECE if self.rate > _FAST else _PIECE
        while at < end:
            piece = os.pread(file, min(most, end - at, trouble_at - at if at < trouble_at else most), at)
            if at == trouble_at and fault:
                if fault.kind == "flip":
                    piece = bytes([piece[0] ^ 1]) + piece[1:]
                elif not self._trouble(fault, file, at, end):
                    return False
            at += self._pass(piece)
            if self.rate:
                time.sleep(max(0.0, began + (at - start) / self.rate - time.monotonic()))
        if fault and fault.kind == "long":
            self._pass(b"x" * _PIECE)
        return True

    def _pass(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest and not self._client_has_gone():
            sent = self.connection.send(rest)
            self.count(sent)
            rest = rest[sent:]
        return len(data)

    def _client_has_gone(self) -> bool:
        """Whether the client has closed the connection: bytes sent after that should not count."""
        with suppress(BlockingIOError):
            if not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise ConnectionResetError
        return False

    def _trouble(self, fault: Fault, file: int, at: int, end: int) -> bool:
        """Apply a fault in the middle of the body; whether sending continues."""
        match fault.kind:
            case "drip":
                for offset in range(at, end, _DRIP):
                    self._pass(os.pread(file, min(_DRIP, end - offset), offset))
                    time.sleep(_DRIP_SECONDS)
            case "stall":
                with suppress(OSError):
                    self.connection.settimeout(60)
                    self.connection.recv(1)  # until the client gives up
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case "close":
                pass
            case _:
                return True
        return False
