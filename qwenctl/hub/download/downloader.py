"""Download files of a repository over several connections, surviving interruptions and verifying every hash.

A `Listing` and download targets come in; when `download_all` returns, each file has its final name and the content that
the listing promises. Each connection writes segments to partial files. One thread per file hashes the bytes as they
arrive, and renames the file when the hash is complete and right. A file with a wrong hash is downloaded once more.
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
# Interval of progress reports, time to wait for threads at the end, interval of looking for new bytes to hash.
_REPORT_SECONDS, _JOIN_SECONDS, _POLL_SECONDS = 0.1, 1.0, 0.02
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class DownloadOptions:
    """How to download. `patience` is the time in seconds without a byte after which the download gives up."""

    connections: int = CONNECTIONS
    patience: float = PATIENCE_SECONDS


@dataclass(frozen=True)
class FileProgress:
    """The progress of an active file; `size` and `arrived` are in bytes."""

    path: str
    size: int
    arrived: int

    @property
    def state(self) -> str:
        """What is happening to the file, as one word."""
        return "verifying" if self.arrived == self.size else "downloading" if self.arrived else "waiting"


@dataclass(frozen=True)
class Progress:
    """The progress of a download. An earlier run left `resumed_bytes`; `note` is the reason of a stall, or ""."""

    files: tuple[FileProgress, ...]
    done_bytes: int
    total_bytes: int
    resumed_bytes: int
    note: str


class Download:
    """A running download; see `run_download`. The first exception of a thread becomes `error` and ends all threads."""

    def __init__(
        self,
        listing: Listing,
        targets: Sequence[DownloadTarget],
        options: DownloadOptions,
        warn: Callable[[QwenctlError], None],
        may_start: Callable[[DownloadTarget], bool],
        on_complete: Callable[[DownloadTarget], None],
    ) -> None:
        self.error: BaseException | None = None
        self._listing, self._warn, self._on_complete = listing, warn, on_complete
        self._total = sum(target.file.size for target in targets)
        self._resumed = self._max_done = sum(arrived_bytes(target.part, target.file.size) for target in targets)
        self._note = ""
        self._stop = threading.Event()
        # The listing has been fetched already, so the server is known to be reachable.
        self._retry_policy = RetryPolicy(options.patience, self._stop, self._set_note, reached=True)
        self._throughput = ThroughputMonitor()
        self._queue = SegmentQueue(targets, self._stop, may_start, self._start_verification)
        self._connections = [self._make_thread(self._run_connection) for _ in range(options.connections)]

    def start(self) -> None:
        """Start the connections; returns immediately."""
        for thread in self._connections:
            thread.start()

    @property
    def running(self) -> bool:
        """Whether the download is neither complete nor failed."""
        return self.error is None and any(thread.is_alive() for thread in self._connections)

    def wait(self, seconds: float) -> None:
        """Wait until the first connection ends, or for `seconds`."""
        self._connections[0].join(seconds)

    def stop(self) -> None:
        """Tell all threads to end, and wait up to a second for them."""
        self._stop.set()
        for thread in self._connections:
            thread.join(_JOIN_SECONDS / len(self._connections))
        # The caller gives up its lock: from now on, no thread that is late may write to what another process resumes.
        self._queue.close(_JOIN_SECONDS)

    def progress(self) -> Progress:
        """Return the current progress. The total never decreases, although a file that is refetched starts over."""
        files = tuple(
            FileProgress(download.target.file.path, download.target.file.size, download.part.arrived)
            for download in self._queue.active
        )
        self._max_done = max(self._max_done, self._queue.completed_bytes + sum(file.arrived for file in files))
        return Progress(files, self._max_done, self._total, self._resumed, self._note)

    def _set_note(self, note: str) -> None:
        self._note = note

    def _make_thread(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        """Create a daemon thread for `work`; its exception becomes `error` and stops the download."""

        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller's thread must raise it
                if not self._stop.is_set():  # only the first failure counts; later ones may be its consequences
                    self.error = self.error or error
                    self._stop.set()

        return threading.Thread(target=run, daemon=True)

    def _run_connection(self) -> None:
        """Download segments until all files are complete."""
        while (segment := self._queue.take()) is not None:
            try:
                self._download_segment(*segment)
            finally:
                self._queue.release(*segment)

    def _download_segment(self, download: ActiveDownload, number: int) -> None:
        """Download a segment until it is complete, with retries. Raises QwenctlError when it is time to give up."""
        attempt = 0
        while not download.part.is_complete(number) and not self._stop.is_set():
            before = download.part.counts[number]
            failure = RetryableError("connection lost")  # if the response ends early without an exception
            try:
                self._read_range(download, number)
            except LinkExpired as error:
                download.url, failure = None, error
            except RetryableError as error:
                failure = error
            if not download.part.is_complete(number) and not self._stop.is_set():
                # Any progress restarts the backoff: a connection that breaks now and then is not a failing one.
                attempt = 0 if download.part.counts[number] > before else attempt + 1
                self._retry_policy.wait_before_retry(failure, attempt)

    def _read_range(self, download: ActiveDownload, number: int) -> None:
        """Write as much of a segment as one response delivers; returns early if the connection is too slow."""
        meter = self._throughput.new_meter()
        with open_range(self._get_url(download), *download.part.missing_range(number)) as chunks:
            for chunk in chunks:
                download.part.write(number, chunk)
                self._retry_policy.record_progress()
                if self._stop.is_set() or meter.is_slow(len(chunk)):
                    return
        meter.finish()  # slow or stopped connections do not count for the average

    def _get_url(self, download: ActiveDownload) -> DownloadUrl:
        """The URL of a file; the first connection that needs it resolves it, and the others wait for that."""
        with download.url_lock:
            url = download.url
            if url is None:
                url = download.url = resolve_url(self._listing, download.target.file)
            return url

    def _start_verification(self, download: ActiveDownload) -> None:
        self._make_thread(self._verify_file, download).start()

    def _verify_file(self, download: ActiveDownload) -> None:
        """Hash a file as it arrives, and rename it when it is complete; on a wrong hash, download it once more.

        Raises QwenctlError if the hash is wrong again.
        """
        file = download.target.file
        while (actual := self._hash_arriving(download)) != file.etag:
            if self._stop.is_set():
                return
            mismatch = hash_mismatch(file, actual)
            download.part.reset()
            if download.refetched:
                download.part.path.unlink()
                raise QwenctlError(
                    mismatch.message, "it arrived damaged twice: test RAM and disk, then run again", mismatch.code
                )
            download.refetched, download.url = True, None  # resolve the URL again as well
            self._warn(mismatch)
        download.part.finish(download.target.final)
        self._on_complete(download.target)
        self._queue.complete(download)

    def _hash_arriving(self, download: ActiveDownload) -> str:
        """Hash all bytes of a file, waiting for those that are missing; "" if the download stops before."""
        # The hash must see the bytes in order, but segments arrive in parallel: follow the contiguous part, and read
        # it back from the page cache. So the hash is complete shortly after the last byte.
        digest, position, available = download.target.file.new_digest(), 0, 0
        while position < download.target.file.size:
            if position == available:
                available = download.part.contiguous_bytes(position)
            if position == available and self._stop.wait(_POLL_SECONDS):
                return ""
            data = download.part.read(position, min(_CHUNK_BYTES, available - position))
            digest.update(data)
            position += len(data)
        return digest.hexdigest()


def hash_mismatch(file: RemoteFile, actual: str) -> QwenctlError:
    """The error for a file whose content does not have the hash in the listing."""
    hash_name = "sha256" if file.sha256 else "git hash"
    return QwenctlError(
        f"{file.path}: {hash_name} is {actual[:12]}.., expected {file.etag[:12]}..",
        f"downloading it again ({format_bytes(file.size)}); if this repeats, test RAM and disk",
        ExitCode.BAD_DATA,
    )


@contextmanager
def run_download(
    listing: Listing,
    targets: Sequence[DownloadTarget],
    options: DownloadOptions,
    warn: Callable[[QwenctlError], None],
    may_start: Callable[[DownloadTarget], bool] = lambda _: True,
    on_complete: Callable[[DownloadTarget], None] = lambda _: None,
) -> Iterator[Download]:
    """Run a download in the background; it stops when the block ends.

    `may_start` is asked before each file is started; `on_complete` is called for each file that has its final name.
    Raises QwenctlError whose message says what is saved.
    """
    download = Download(listing, targets, options, warn, may_start, on_complete)
    download.start()
    try:
        yield download
        if download.error:
            raise download.error
    except (KeyboardInterrupt, SystemExit) as error:  # the latter is what SIGTERM becomes
        code = ExitCode.INTERRUPTED if isinstance(error, KeyboardInterrupt) else ExitCode.TERMINATED
        saved = _describe_saved(download.progress())
        raise QwenctlError(f"stopped; {saved}", "the same command resumes from there", code) from error
    except QwenctlError as error:
        if error.code == ExitCode.TRY_AGAIN:
            raise QwenctlError(
                f"{error.message}; {_describe_saved(download.progress())}", error.hint, error.code
            ) from error
        raise
    except OSError as error:
        raise _disk_error(error, targets, download.progress()) from error
    finally:
        download.stop()


def download_all(
    listing: Listing,
    targets: Sequence[DownloadTarget],
    options: DownloadOptions,
    report: Callable[[Progress], None],
    warn: Callable[[QwenctlError], None],
) -> None:
    """Download all targets. Raises QwenctlError; the bytes that have arrived are saved."""
    with run_download(listing, targets, options, warn) as download:
        while download.running:
            report(download.progress())
            download.wait(_REPORT_SECONDS)
        report(download.progress())


def _describe_saved(progress: Progress) -> str:
    return f"{format_bytes(progress.done_bytes)} saved" if progress.done_bytes else "nothing has arrived yet"


def _disk_error(error: OSError, targets: Sequence[DownloadTarget], progress: Progress) -> QwenctlError:
    """Translate an OSError while writing to a QwenctlError with a hint."""
    folder, reason = targets[0].part.parent, (error.strerror or str(error)).lower()
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
