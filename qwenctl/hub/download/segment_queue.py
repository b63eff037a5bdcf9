"""Decide which segment of which file each connection downloads next.

Download targets come in; (file, segment index) pairs go out. Files are started in order, a few at a time, and segments
are taken from the start of each file, so that hashing keeps up with the bytes and the first files are complete early.
One `SegmentQueue` is shared by all threads of a download. Networking is not known here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwenctl.hub.download.hub_api import DownloadUrl
from qwenctl.hub.download.partial_file import PartialFile, open_partial_file
from qwenctl.hub.repository.listing import RemoteFile

MAX_ACTIVE_FILES = 8


@dataclass(frozen=True)
class DownloadTarget:
    """A file to download: to `part` while it arrives, renamed to `final` when it is complete and verified."""

    file: RemoteFile
    part: Path
    final: Path


@dataclass
class ActiveDownload:
    """A file that is being downloaded. `taken` holds the indices of the segments that connections work on.

    `url` is None until it is resolved, and again after it expired; `url_lock` lets one connection resolve it.
    """

    target: DownloadTarget
    part: PartialFile
    taken: set[int] = field(default_factory=set)
    url: DownloadUrl | None = None
    url_lock: threading.Lock = field(default_factory=threading.Lock)
    refetched: bool = False  # whether it had a wrong hash before

    def free_segment(self) -> int | None:
        """The first incomplete segment that no connection works on; None if there is none."""
        numbers = range(len(self.part.counts))
        return next(
            (number for number in numbers if number not in self.taken and not self.part.is_complete(number)), None
        )


class SegmentQueue:
    """The files of a download, started strictly in order. `may_start` can hold back the next file.

    `on_start` is called for each file that is started, with the queue locked.
    """

    def __init__(
        self,
        targets: Sequence[DownloadTarget],
        stop: threading.Event,
        may_start: Callable[[DownloadTarget], bool],
        on_start: Callable[[ActiveDownload], None],
    ) -> None:
        self.active: list[ActiveDownload] = []  # started and not complete, in order
        self.completed_bytes = 0  # of files that have their final name
        self._pending = list(targets)
        self._stop, self._may_start, self._on_start = stop, may_start, on_start
        self._changed = threading.Condition()

    def take(self) -> tuple[ActiveDownload, int] | None:
        """Take a segment for one connection; None when all files are complete or the download stops.

        Blocks while all incomplete segments are taken, because a failed connection returns its segment, and while the
        next file is held back.
        """
        with self._changed:
            while not self._stop.is_set():
                # Finish the files that were started before starting another one. A complete file stays active until its
                # hash is verified, because all of its segments are missing again if the hash is wrong.
                for download in self.active:
                    number = download.free_segment()
                    if number is not None:
                        download.taken.add(number)
                        return download, number
                if self._pending and len(self.active) < MAX_ACTIVE_FILES and self._may_start(self._pending[0]):
                    self._start(self._pending.pop(0))
                elif not self._pending and not self.active:
                    return None
                else:
                    self._changed.wait(0.1)  # with a timeout, because `stop` and `may_start` do not notify
        return None

    def release(self, download: ActiveDownload, number: int) -> None:
        """Return a segment that the connection no longer works on, complete or not."""
        with self._changed:
            download.taken.discard(number)
            self._changed.notify_all()

    def complete(self, download: ActiveDownload) -> None:
        """Remove a file that has its final name."""
        with self._changed:
            self.active.remove(download)
            self.completed_bytes += download.target.file.size
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Close the partial files after a stop; waits up to `timeout` seconds for each write that is under way."""
        with self._changed:  # so that no file is being started
            for download in self.active:
                download.part.close(timeout)

    def _start(self, target: DownloadTarget) -> None:
        """Open the partial file of `target` and make its segments available. Raises OSError."""
        target.part.parent.mkdir(parents=True, exist_ok=True)
        download = ActiveDownload(target, open_partial_file(target.part, target.file.size))
        self.active.append(download)
        self._on_start(download)
