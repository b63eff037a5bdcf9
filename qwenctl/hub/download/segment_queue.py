"""The work of the connections: which segment of which file each takes next.

Files are begun in their order, a few at a time, and segments are taken from the start of each, so that hashes follow
the bytes closely and the first files are whole early. One `SegmentQueue` is shared by all threads of a fetch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwenctl.hub.download.hub_api import DownloadUrl
from qwenctl.hub.download.partial_file import PartialFile, open_part
from qwenctl.hub.repository.listing import RemoteFile

MOST_FILES = 8


@dataclass(frozen=True)
class DownloadTarget:
    """A file to be fetched: to `part` while it arrives, to `final` when it is whole and verified."""

    file: RemoteFile
    part: Path
    final: Path


@dataclass
class ActiveDownload:
    """A file in flight. `taken` are the segments that a connection works on."""

    wanted: DownloadTarget
    part: PartialFile
    taken: set[int] = field(default_factory=set)
    link: DownloadUrl | None = None
    locating: threading.Lock = field(default_factory=threading.Lock)
    refetched: bool = False

    def free_segment(self) -> int | None:
        """The first segment that has missing bytes and that nobody works on."""
        numbers = range(len(self.part.counts))
        return next((one for one in numbers if one not in self.taken and not self.part.is_whole(one)), None)


class SegmentQueue:
    """The files of a fetch. `may_begin` is asked before each file, and none is begun before those before it."""

    def __init__(
        self,
        wanted: Sequence[DownloadTarget],
        stop: threading.Event,
        may_begin: Callable[[DownloadTarget], bool],
        begun: Callable[[ActiveDownload], None],
    ) -> None:
        self.flights: list[ActiveDownload] = []
        self.completed_bytes = 0
        self._waiting = list(wanted)
        self._stop, self._may_begin, self._begun = stop, may_begin, begun
        self._changed = threading.Condition()

    def take(self) -> tuple[ActiveDownload, int] | None:
        """A segment for one connection; None when all files have landed. Waits for one that may become free again."""
        with self._changed:
            while not self._stop.is_set():
                for flight in self.flights:
                    number = flight.free_segment()
                    if number is not None:
                        flight.taken.add(number)
                        return flight, number
                if self._waiting and len(self.flights) < MOST_FILES and self._may_begin(self._waiting[0]):
                    self._begin(self._waiting.pop(0))
                elif not self._waiting and not self.flights:
                    return None
                else:
                    self._changed.wait(0.1)
        return None

    def put_back(self, flight: ActiveDownload, number: int) -> None:
        """Nobody works on this segment now."""
        with self._changed:
            flight.taken.discard(number)
            self._changed.notify_all()

    def complete(self, flight: ActiveDownload) -> None:
        """The file has its final name."""
        with self._changed:
            self.flights.remove(flight)
            self.completed_bytes += flight.wanted.file.size
            self._changed.notify_all()

    def _begin(self, wanted: DownloadTarget) -> None:
        wanted.part.parent.mkdir(parents=True, exist_ok=True)
        flight = ActiveDownload(wanted, open_part(wanted.part, wanted.file.size))
        self.flights.append(flight)
        self._begun(flight)
