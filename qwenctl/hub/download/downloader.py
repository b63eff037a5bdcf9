"""Files of a repository, fetched: several connections, any interruption survived, every hash checked.

A `Listing` and the wanted files come in; when `fetch` returns, each lies under its final name with the content that the
listing promises. Each connection brings segments into parts; for each file a thread follows the bytes with the hash,
and gives the file its name when both are at the end. A file with a wrong hash is fetched once more.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from quantize.formatting import format_bytes
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.http_errors import RetryableError
from qwenctl.hub.download.hub_api import DownloadUrl, LinkExpired, open_range, resolve_url
from qwenctl.hub.download.partial_file import arrived_bytes
from qwenctl.hub.download.retry import RetryPolicy
from qwenctl.hub.download.segment_queue import ActiveDownload, DownloadTarget, SegmentQueue
from qwenctl.hub.download.stall_detector import ThroughputMonitor
from qwenctl.hub.repository.listing import Listing, RemoteFile

CONNECTIONS, PATIENCE_SECONDS = 8, 300.0
_REPORT_SECONDS, _LEAVE_SECONDS, _LOOK_SECONDS = 0.1, 1.0, 0.02
_PIECE = 1 << 20


@dataclass(frozen=True)
class DownloadOptions:
    """How to fetch. `patience` is the time without a byte after which it gives up."""

    connections: int = CONNECTIONS
    patience: float = PATIENCE_SECONDS


@dataclass(frozen=True)
class FileProgress:
    """A file in flight."""

    path: str
    size: int
    arrived: int

    @property
    def state(self) -> str:
        """What happens with it."""
        return "verifying" if self.arrived == self.size else "downloading" if self.arrived else "waiting"


@dataclass(frozen=True)
class Progress:
    """How far a fetch is. `resumed_bytes` were here at its start; `note` says why nothing comes, if so."""

    files: tuple[FileProgress, ...]
    done_bytes: int
    total_bytes: int
    resumed_bytes: int
    note: str


class Download:
    """A fetch under way; see `fetching`. The first failure of a thread is its `error`, and ends all threads."""

    def __init__(
        self,
        listing: Listing,
        wanted: Sequence[DownloadTarget],
        settings: DownloadOptions,
        warn: Callable[[QwenctlError], None],
        may_begin: Callable[[DownloadTarget], bool],
        landed: Callable[[DownloadTarget], None],
    ) -> None:
        self.error: BaseException | None = None
        self._listing, self._warn, self._landed = listing, warn, landed
        self._total = sum(one.file.size for one in wanted)
        self._resumed = self._furthest = sum(arrived_bytes(one.part, one.file.size) for one in wanted)
        self._note = ""
        self._stop = threading.Event()
        self._patience = RetryPolicy(settings.patience, self._stop, self._tell, reached=True)
        self._pace = ThroughputMonitor()
        self._board = SegmentQueue(wanted, self._stop, may_begin, self._begun)
        self._connections = [self._thread(self._connection) for _ in range(settings.connections)]

    def start(self) -> None:
        """Begin; returns at once."""
        for thread in self._connections:
            thread.start()

    @property
    def running(self) -> bool:
        """Whether there is something left to be done."""
        return self.error is None and any(thread.is_alive() for thread in self._connections)

    def wait(self, seconds: float) -> None:
        """Wait for the end, or for `seconds`."""
        self._connections[0].join(seconds)

    def end(self) -> None:
        """Have all threads end soon, and wait a little for them."""
        self._stop.set()
        for thread in self._connections:
            thread.join(_LEAVE_SECONDS / len(self._connections))

    def progress(self) -> Progress:
        """How far it is. The sum never goes back, though a file may."""
        files = tuple(
            FileProgress(one.wanted.file.path, one.wanted.file.size, one.part.arrived) for one in self._board.flights
        )
        self._furthest = max(self._furthest, self._board.completed_bytes + sum(file.arrived for file in files))
        return Progress(files, self._furthest, self._total, self._resumed, self._note)

    def _tell(self, note: str) -> None:
        self._note = note

    def _thread(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller's thread must raise it
                if not self._stop.is_set():
                    self.error = self.error or error
                    self._stop.set()

        return threading.Thread(target=run, daemon=True)

    def _connection(self) -> None:
        """Bring segments until all files have landed."""
        while (taken := self._board.take()) is not None:
            try:
                self._bring(*taken)
            finally:
                self._board.put_back(*taken)

    def _bring(self, flight: ActiveDownload, number: int) -> None:
        attempt = 0
        while not flight.part.is_whole(number) and not self._stop.is_set():
            before = flight.part.counts[number]
            trouble = RetryableError("connection lost")
            try:
                self._read(flight, number)
            except LinkExpired as error:
                flight.link, trouble = None, error
            except RetryableError as error:
                trouble = error
            if not flight.part.is_whole(number) and not self._stop.is_set():
                attempt = 0 if flight.part.counts[number] > before else attempt + 1
                self._patience.wait_before_retry(trouble, attempt)

    def _read(self, flight: ActiveDownload, number: int) -> None:
        """Bring as much of a segment as one answer has."""
        meter = self._pace.meter()
        with open_range(self._link(flight), *flight.part.missing_range(number)) as pieces:
            for piece in pieces:
                flight.part.write(number, piece)
                self._patience.progress()
                if self._stop.is_set() or meter.is_slow(len(piece)):
                    return
        meter.end()

    def _link(self, flight: ActiveDownload) -> DownloadUrl:
        with flight.locating:
            link = flight.link
            if link is None:
                link = flight.link = resolve_url(self._listing, flight.wanted.file)
            return link

    def _begun(self, flight: ActiveDownload) -> None:
        self._thread(self._verify, flight).start()

    def _verify(self, flight: ActiveDownload) -> None:
        """Follow the bytes of a file with its hash, and give it its name."""
        file = flight.wanted.file
        while (found := self._hash(flight)) != file.etag:
            if self._stop.is_set():
                return
            wrong = hash_mismatch(file, found)
            flight.part.reset()
            if flight.refetched:
                flight.part.path.unlink()
                raise QwenctlError(
                    wrong.message, "it arrived damaged twice: test RAM and disk, then run again", wrong.code
                )
            flight.refetched, flight.link = True, None
            self._warn(wrong)
        flight.part.finish(flight.wanted.final)
        flight.part.close()
        self._landed(flight.wanted)
        self._board.complete(flight)

    def _hash(self, flight: ActiveDownload) -> str:
        """The hash of all bytes, when they are there; "" if the fetch ends before."""
        digest, at, here = flight.wanted.file.digest(), 0, 0
        while at < flight.wanted.file.size:
            if at == here:
                here = flight.part.contiguous_bytes(at)
            if at == here and self._stop.wait(_LOOK_SECONDS):
                return ""
            data = flight.part.read(at, min(_PIECE, here - at))
            digest.update(data)
            at += len(data)
        return digest.hexdigest()


def hash_mismatch(file: RemoteFile, found: str) -> QwenctlError:
    """The content of a file is not what its list promises."""
    kind = "sha256" if file.sha256 else "git hash"
    return QwenctlError(
        f"{file.path}: {kind} is {found[:12]}.., expected {file.etag[:12]}..",
        f"downloading it again ({format_bytes(file.size)}); if this repeats, test RAM and disk",
        ExitCode.BAD_DATA,
    )


@contextmanager
def run_download(
    listing: Listing,
    wanted: Sequence[DownloadTarget],
    settings: DownloadOptions,
    warn: Callable[[QwenctlError], None],
    may_begin: Callable[[DownloadTarget], bool] = lambda _: True,
    landed: Callable[[DownloadTarget], None] = lambda _: None,
) -> Iterator[Download]:
    """A fetch that runs beside the caller, and ends with the block. Its failures say what is kept."""
    fetch = Download(listing, wanted, settings, warn, may_begin, landed)
    fetch.start()
    try:
        yield fetch
        if fetch.error:
            raise fetch.error
    except (KeyboardInterrupt, SystemExit) as error:  # the latter is what SIGTERM becomes
        code = ExitCode.INTERRUPTED if isinstance(error, KeyboardInterrupt) else ExitCode.TERMINATED
        kept = _kept(fetch.progress())
        raise QwenctlError(f"stopped; {kept}", "the same command resumes from there", code) from error
    except QwenctlError as error:
        if error.code == ExitCode.TRY_AGAIN:
            raise QwenctlError(f"{error.message}; {_kept(fetch.progress())}", error.hint, error.code) from error
        raise
    except OSError as error:
        raise _disk_trouble(error, wanted, fetch.progress()) from error
    finally:
        fetch.end()


def download_all(
    listing: Listing,
    wanted: Sequence[DownloadTarget],
    settings: DownloadOptions,
    report: Callable[[Progress], None],
    warn: Callable[[QwenctlError], None],
) -> None:
    """Fetch all files. Raises QwenctlError; what has arrived is kept."""
    with run_download(listing, wanted, settings, warn) as fetch:
        while fetch.running:
            report(fetch.progress())
            fetch.wait(_REPORT_SECONDS)
        report(fetch.progress())


def _kept(progress: Progress) -> str:
    return f"{format_bytes(progress.done_bytes)} saved" if progress.done_bytes else "nothing has arrived yet"


def _disk_trouble(error: OSError, wanted: Sequence[DownloadTarget], progress: Progress) -> QwenctlError:
    """What the system's refusal to write means."""
    folder, reason = wanted[0].part.parent, (error.strerror or str(error)).lower()
    done = f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free up space and run the same command again"
        return QwenctlError(f"disk full after {done}; saved for resume", hint, ExitCode.IO)
    if error.errno == errno.EFBIG:
        hint = "raise the limit, or `--to DIR` on another file system"
        return QwenctlError(f"{folder} does not allow files as large as these (`ulimit -f`)", hint, ExitCode.IO)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        hint = "`--to DIR` or HF_HUB_CACHE=...; reading still works"
        return QwenctlError(f"cannot write to {folder} ({reason})", hint, ExitCode.CANNOT_CREATE)
    return QwenctlError(f"cannot write to {folder} ({reason})", "check the disk", ExitCode.IO)
