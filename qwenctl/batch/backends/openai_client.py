"""Servers that speak OpenAI's protocol as what answers a batch: vLLM, SGLang, llama-server, many requests at once.

Records come in, answers go out. A server that is busy, breaks off or falls silent is asked again after a pause; one
record that it never answers fails alone, and when no record is answered any more the batch stops.
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

_MOST_ATTEMPTS = 6  # of one record, while others are answered
_WINDOW = 4
_PER_ENDPOINT = 16


@dataclass(frozen=True)
class EndpointSpec:
    """Which servers to ask, for which model ("": their only one), and how many records at once each (0: 16).

    `timeout_s` is how long one answer may take, `patience_s` how long no server may answer anything; `api_key` is sent.
    """

    urls: tuple[str, ...]
    model: str = ""
    parallel: int = 0
    timeout_s: float = 600
    patience_s: float = 300
    api_key: str = field(default="", repr=False)

    def identity(self) -> dict[str, Any]:
        """The model's name: which server has it does not matter."""
        return {"model": self.model, "endpoint": True}

    def open(self, source: InputSpec, warn: Callable[[str], None]) -> OpenAIBackend:
        """The backend that asks them, with seeds by that of `source`."""
        return OpenAIBackend(replace(self, parallel=self.parallel or _PER_ENDPOINT), source.seed)


@dataclass
class _Job:
    number: int
    record: Record
    attempt: int = 0
    first_at: float = 0.0


class OpenAIBackend:
    """Asks servers from threads of its own, which end with the process."""

    def __init__(self, servers: EndpointSpec, seed: int) -> None:
        self._servers, self._seed = servers, seed
        self._jobs: queue.Queue[_Job] = queue.Queue()
        self._found: queue.Queue[tuple[int, Answer | RecordError] | QwenctlError] = queue.Queue()
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
        """The name that was given."""
        return self._servers.model

    @property
    def queue_depth(self) -> int:
        """Enough that no thread waits."""
        return _WINDOW * self._servers.parallel * len(self._servers.urls)

    @property
    def stats(self) -> BackendStats:
        """What the servers have counted."""
        parallel = self._servers.parallel * len(self._servers.urls)
        return BackendStats(
            self._prompt_tokens, 0, self._answer_tokens, 0.0, 0.0, self._active, parallel, self._jobs.qsize()
        )  # fmt: skip

    def submit(self, number: int, record: Record) -> None:
        """Take a record."""
        self._jobs.put(_Job(number, record))

    def collect(self, timeout_s: float) -> Sequence[tuple[int, Answer | RecordError]]:
        """Answers since the last call. Raises QwenctlError when no server answers any more, or refuses all."""
        found = []
        try:
            one = self._found.get(timeout=timeout_s)
            while True:
                if isinstance(one, QwenctlError):
                    raise one
                found.append(one)
                one = self._found.get_nowait()
        except queue.Empty:
            return found

    def close(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._client.close()

    def _serve(self, url: str) -> None:
        """Ask one server for one record after the other."""
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
            self._found.put(error.stops_all or (job.number, RecordError("refused", str(error))))
        except RetryableResponse as error:
            self._again(url, job, error)
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
            self._found.put((job.number, answer))

    def _ask(self, url: str, record: Record) -> Answer:
        """Raises PermanentError or RetryableResponse."""
        body = request_body(record, self._servers.model, record_seed(record, self._seed))
        try:
            response = self._client.post(url, json=body)
        except httpx2.InvalidURL as error:
            raise PermanentError(f"{url} is not a URL", stops_all=QwenctlError(f"{url} is not a URL")) from error
        except httpx2.HTTPError as error:
            raise RetryableResponse(f"{url}: {str(error).lower() or type(error).__name__}") from error
        return parse_response(url, response.status_code, response.headers, response.content, record)

    def _again(self, url: str, job: _Job, trouble: RetryableResponse) -> None:
        """Give a record back after a pause, or give it up, or all."""
        job.attempt += 1
        with self._lock:
            others = self._answered_at > job.first_at
            silence = time.monotonic() - max(self._answered_at, job.first_at)
        if others and job.attempt >= _MOST_ATTEMPTS and trouble.wait is None:
            self._found.put((job.number, RecordError("server", f"{trouble} ({job.attempt} attempts)")))
            return
        pause = trouble.wait if trouble.wait is not None else backoff_seconds(job.attempt)
        if silence + pause > self._servers.patience_s:
            hint = "the same command resumes; raise --patience to wait longer"
            message = f"no answer for {silence:.0f} s: {trouble}"
            self._found.put(
                QwenctlError(message, hint, ExitCode.NETWORK if trouble.wait is None else ExitCode.TRY_AGAIN)
            )
            return
        self._stop.wait(pause)
        self._jobs.put(job)


def completions_url(url: str) -> str:
    """The address for chat completions at a server, with or without its /v1."""
    base = url.rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"
