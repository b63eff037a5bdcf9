"""The backend that answers a batch with OpenAI-compatible servers, such as vLLM, SGLang or llama-server.

Records come in, answers go out; each server gets several requests at once. A request is retried after a pause if the
server is busy or the connection fails. A record that keeps failing while others succeed fails alone; when no server
answers anything any more, the batch stops.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from qwenctl.batch.backends.backend import BackendStats
from qwenctl.batch.backends.openai_format import PermanentError, RetryableResponse, parse_response, request_body
from qwenctl.batch.records import Answer, Record, RecordError, record_seed
from qwenctl.batch.specs import InputSpec
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.http_retry import backoff_seconds

_MAX_ATTEMPTS = 6  # per record, while others are answered
_WINDOW = 4  # queued records per request in flight
_PER_ENDPOINT = 16  # requests in flight


@dataclass(frozen=True)
class EndpointSpec:
    """Which servers to use, with which model ("": the only one they have), and `parallel` requests each (0: 16).

    `timeout_s` is the time limit for one answer; after `patience_s` seconds without any answer the batch stops.
    `api_key` is sent as a bearer token.
    """

    urls: tuple[str, ...]
    model: str = ""
    parallel: int = 0
    timeout_s: float = 600
    patience_s: float = 300
    api_key: str = field(default="", repr=False)

    def identity(self) -> dict[str, Any]:
        """The model's name; which server answers does not matter."""
        return {"model": self.model, "endpoint": True}

    def open(self, source: InputSpec, warn: Callable[[str], None]) -> OpenAIBackend:
        """Start the backend; the seed of `source` determines those of the records."""
        return OpenAIBackend(replace(self, parallel=self.parallel or _PER_ENDPOINT), source.seed)


@dataclass
class _Job:
    """A record to answer; `attempt` counts failed ones, `first_at` is the time of the first (time.monotonic())."""

    number: int
    record: Record
    attempt: int = 0
    first_at: float = 0.0


class OpenAIBackend:
    """Sends requests from daemon threads, `parallel` for each server."""

    def __init__(self, servers: EndpointSpec, seed: int) -> None:
        self._servers, self._seed = servers, seed
        self._jobs: queue.Queue[_Job] = queue.Queue()
        self._outcomes: queue.Queue[tuple[int, Answer | RecordError] | QwenctlError] = queue.Queue()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._prompt_tokens = self._answer_tokens = self._active = 0
        self._answered_at = time.monotonic()
        headers = {"Authorization": f"Bearer {servers.api_key}"} if servers.api_key else {}
        timeout = httpx2.Timeout(servers.timeout_s, connect=10.0)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx2.Client(headers=headers, timeout=timeout, limits=limits)
        for url in servers.urls:
            for _ in range(servers.parallel):
                threading.Thread(target=self._serve, args=(completions_url(url),), daemon=True).start()

    @property
    def model(self) -> str:
        """The model's name, as given."""
        return self._servers.model

    @property
    def queue_depth(self) -> int:
        """Enough records that no thread is idle."""
        return _WINDOW * self._servers.parallel * len(self._servers.urls)

    @property
    def stats(self) -> BackendStats:
        """Tokens as counted by the servers; they do not report seconds."""
        parallel = self._servers.parallel * len(self._servers.urls)
        return BackendStats(
            prompt_tokens=self._prompt_tokens,
            shared_tokens=0,
            answer_tokens=self._answer_tokens,
            prompt_s=0.0,
            answer_s=0.0,
            active=self._active,
            parallel=parallel,
            waiting=self._jobs.qsize(),
        )

    def submit(self, number: int, record: Record) -> None:
        """Queue a record for answering."""
        self._jobs.put(_Job(number, record))

    def collect(self, timeout_s: float) -> Sequence[tuple[int, Answer | RecordError]]:
        """The outcomes since the last call. Raises QwenctlError if no server answers any more, or all refuse."""
        found = []
        try:
            one = self._outcomes.get(timeout=timeout_s)
            while True:
                if isinstance(one, QwenctlError):
                    raise one
                found.append(one)
                one = self._outcomes.get_nowait()
        except queue.Empty:
            return found

    def close(self) -> None:
        """Stop sending requests."""
        self._stop.set()
        self._client.close()

    def _serve(self, url: str) -> None:
        """Send records to one server, one after the other, until closed."""
        while not self._stop.is_set():
            try:
                job = self._jobs.get(timeout=0.2)
            except queue.Empty:
                continue
            with self._lock:
                self._active += 1
            try:
                self._answer(url, job)
            finally:
                with self._lock:
                    self._active -= 1

    def _answer(self, url: str, job: _Job) -> None:
        job.first_at = job.first_at or time.monotonic()
        begin = time.perf_counter()
        try:
            answer = self._ask(url, job.record)
        except PermanentError as error:
            self._outcomes.put(error.stops_all or (job.number, RecordError("refused", str(error))))
        except RetryableResponse as error:
            self._retry(url, job, error)
        except RuntimeError:  # the client was closed
            if not self._stop.is_set():
                raise
        else:
            took = round(time.perf_counter() - begin, 6)
            answer = replace(answer, stats={"seconds": took, "attempts": job.attempt + 1, "endpoint": url})
            with self._lock:
                self._answered_at = time.monotonic()
                self._prompt_tokens += answer.usage["prompt_tokens"]
                self._answer_tokens += answer.usage["completion_tokens"]
            self._outcomes.put((job.number, answer))

    def _ask(self, url: str, record: Record) -> Answer:
        """One request. Raises PermanentError or RetryableResponse."""
        body = request_body(record, self._servers.model, record_seed(record, self._seed))
        try:
            response = self._client.post(url, json=body)
        except httpx2.InvalidURL as error:
            raise PermanentError(f"{url} is not a URL", stops_all=QwenctlError(f"{url} is not a URL")) from error
        except httpx2.HTTPError as error:
            raise RetryableResponse(f"{url}: {str(error).lower() or type(error).__name__}") from error
        return parse_response(url, response.status_code, response.headers, response.content, record)

    def _retry(self, url: str, job: _Job, trouble: RetryableResponse) -> None:
        """Queue a record again after a pause, or fail it, or stop the batch."""
        job.attempt += 1
        with self._lock:
            others = self._answered_at > job.first_at
            silence = time.monotonic() - max(self._answered_at, job.first_at)
        if others and job.attempt >= _MAX_ATTEMPTS and trouble.wait is None:
            self._outcomes.put((job.number, RecordError("server", f"{trouble} ({job.attempt} attempts)")))
            return
        pause = trouble.wait if trouble.wait is not None else backoff_seconds(job.attempt)
        if silence + pause > self._servers.patience_s:
            hint = "the same command resumes; raise --patience to wait longer"
            message = f"no answer for {silence:.0f} s: {trouble}"
            self._outcomes.put(
                QwenctlError(message, hint, ExitCode.NETWORK if trouble.wait is None else ExitCode.TRY_AGAIN)
            )
            return
        self._stop.wait(pause)
        self._jobs.put(job)


def completions_url(url: str) -> str:
    """The chat completions URL of a server, whose base URL may end with /v1 or not."""
    base = url.rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"
