"""The sides that `batch` compares: our batches, llama-batched-bench and llama-server, in tokens per CPU second.

Its imports are heavy, so only processes that measure batches import it.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import psutil

from qwenctl.batch.backends.backend import BatchBackend
from qwenctl.batch.backends.engine_backend import EngineBackend, EngineBackendConfig
from qwenctl.batch.backends.openai_client import EndpointSpec, OpenAIBackend
from qwenctl.batch.input.readers import InputFormat, read_items
from qwenctl.batch.output.writers import FileOutput
from qwenctl.batch.records import GenerationParams
from qwenctl.batch.runner import BatchRunner, BatchStats, RunSettings
from qwenctl.engine.client import Engine
from qwenctl.protocol.batch import StartBatch
from qwenctl.protocol.load import LoadParams, ModelInfo
from tests.benchmarks.measure import cost_of, own_seconds
from tests.benchmarks.settings import Settings

_RECORDS, _ANSWER_TOKENS, _PROMPT_TOKENS = 64, 32, 32
NUMBERS = (16, 32, 64)
_SAMPLING = {"temperature": 1, "top_k": 40, "presence_penalty": 0}
_WANTED = GenerationParams(think=False, max_tokens=_ANSWER_TOKENS, sampling=_SAMPLING)


def records_of(number: int, who: str, prefix: str = "") -> bytes:
    """Records that no side has been given before."""
    prompts = (f"{prefix}Round {number} of {who}, {place}: " + "word " * 4 for place in range(_RECORDS))
    return "".join(f"{json.dumps({'prompt': prompt})}\n" for prompt in prompts).encode()


def ours(
    settings: Settings, model: Path, records: bytes, parallel: int, *, shares: bool = False, room: int = 256
) -> float:
    """Tokens per CPU second of our engine and the program around it."""
    engine = Engine.start(settings.folder)
    try:
        *_, loaded = engine.load(model, LoadParams(context_tokens=256, threads=settings.threads))
        assert isinstance(loaded, ModelInfo)
        opening = StartBatch(LoadParams(context_tokens=room, threads=settings.threads), parallel, share_prefixes=shares)
        answerer = EngineBackend(EngineBackendConfig(lambda: (engine, loaded), opening, 0, print))
        return _speed(settings, records, answerer, lambda: _cpu(engine.pid) + own_seconds())
    finally:
        engine.close()


def _speed(settings: Settings, records: bytes, answerer: BatchBackend, cpu: Callable[[], float]) -> float:
    """Tokens per second of `cpu`, from the first record read to the last answer on disk."""
    source, output = settings.folder / "in.jsonl", settings.folder / "out.jsonl"
    source.write_bytes(records)
    for path in settings.folder.glob("out.*"):
        path.unlink()
    begin = cpu()
    with source.open("rb") as stream:
        saved = FileOutput(output, {}, "input", force=False, retries=False)
        BatchRunner(RunSettings("qwenctl", "", 0, {}), saved, answerer, _ignore_progress).run(
            read_items(stream, "in", InputFormat("jsonl", _WANTED))
        )
        saved.close(is_complete=True)
    seconds = cpu() - begin
    usages = [json.loads(line)["usage"] for line in output.read_text().splitlines()]
    assert len(usages) == _RECORDS
    return sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages) / seconds


def _cpu(process: int) -> float:
    """CPU seconds of a process so far."""
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def _ignore_progress(_figures: BatchStats) -> None:
    """Ignore progress."""


def batched_bench(settings: Settings, programs: Path, model: Path) -> float:
    """The best tokens per CPU second of llama-batched-bench, with and without flash attention."""
    return max(_bench(settings, programs, model, way, count) for way in ("on", "off") for count in NUMBERS)


def _bench(settings: Settings, programs: Path, model: Path, flash_attention: str, count: int) -> float:
    """Run llama-batched-bench as often as needed for all records."""
    threads = ["-t", settings.threads, "-tb", settings.threads, "-fa", flash_attention, "-c", 256 * count]
    command = [programs / "llama-batched-bench", "-m", model, *threads]
    loading = cost_of([*command, "-npp", 1, "-ntg", 1, "-npl", 1]).cpu
    rounds = ",".join([str(count)] * (_RECORDS // count))
    cost = cost_of([*command, "-npp", _PROMPT_TOKENS, "-ntg", _ANSWER_TOKENS, "-npl", rounds])
    return _RECORDS * (_PROMPT_TOKENS + _ANSWER_TOKENS) / (cost.cpu - loading)


def best_server(settings: Settings, programs: Path, model: Path, number: int) -> float:
    speeds = []
    for count in NUMBERS:
        with _server(settings, programs, model, count) as (url, process):
            answerer = OpenAIBackend(EndpointSpec((url,), parallel=count, patience_s=600), 0)
            records = records_of(number, f"server {count}")
            speeds.append(_speed(settings, records, answerer, partial(_cpu, process)))
    return max(speeds)


@contextmanager
def _server(settings: Settings, programs: Path, model: Path, parallel: int) -> Iterator[tuple[str, int]]:
    """The address and the process of a llama-server with the model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = ["-c", 256 * parallel, "-np", parallel, "-t", settings.threads, "-tb", settings.threads, "--port", port]
    command = [programs / "llama-server", "-m", model, *sizes, "--no-webui", "--no-kv-unified"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                httpx2.get(f"{url}/health", timeout=5).raise_for_status()
                break
            except httpx2.HTTPError:
                time.sleep(0.2)
        yield url, process.pid
    finally:
        process.kill()
        process.wait()
