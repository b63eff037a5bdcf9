"""Do what a plan says, with a pool of workers.

A `ConversionPlan` comes in; its files lie on the disk when `convert` returns, and never under their final names before
they are whole. Each worker takes a slab, encodes it and writes it to its place; the caller's thread counts finished
tensors, reports progress and keeps the journal. Memory depends on the number of workers only.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import Interrupted, NoSpace
from quantize.input_files import InputFiles, local_sources
from quantize.layout import TensorPlan
from quantize.output import PartialOutput, open_output
from quantize.plan import ConversionPlan
from quantize.recipe.tensor_classes import tensor_class
from quantize.row_chunks import RowChunk, ScratchBuffers, chunk_rows, iter_chunks, quantize_chunk

_REPORT_SECONDS = 0.1
_JOURNAL_SECONDS = 0.5


@dataclass(frozen=True)
class ConversionProgress:
    """Bytes of tensors so far; `resumed_bytes` of them are from an earlier run. `tensor_class` is at work now."""

    done_bytes: int
    total_bytes: int
    resumed_bytes: int
    tensor_class: str


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion did. `kernel_seconds` is the time inside ggml's quantization functions, of all workers."""

    paths: tuple[Path, ...]
    n_bytes: int
    resumed_bytes: int
    wall_seconds: float
    kernel_seconds: float
    threads: int


@dataclass(frozen=True)
class _ChunkTask:
    """A slab of a tensor, with the numbers of its file and of the tensor there."""

    file: int
    number: int
    tensor: TensorPlan
    slab: RowChunk


@dataclass(frozen=True)
class _ChunkResult:
    """A slab that is written; with no `work`, the end of a worker, by an error if there is one."""

    work: _ChunkTask | None
    kernel_seconds: float = 0.0
    error: BaseException | None = None


def convert(
    plan: ConversionPlan,
    threads: int,
    report: Callable[[ConversionProgress], None] = lambda _: None,
    *,
    overwrite: bool = False,
    sources: InputFiles | None = None,
) -> ConversionResult:
    """Write all files of `plan`, going on where an earlier run of the same plan was stopped.

    Reads the plan's files, or with `sources` what arrives in their place. Raises the errors of `open_output` and of
    `sources`, BadCheckpoint for weights that are not finite, NoSpace, and Interrupted on KeyboardInterrupt; finished
    tensors are kept.
    """
    start = time.perf_counter()
    with ExitStack() as stack:
        output = stack.enter_context(open_output(plan, overwrite=overwrite))
        tally = _ProgressTracker(plan, output.finished)
        try:
            _run(plan, output, sources or stack.enter_context(local_sources(plan)), threads, tally, report)
            output.finish()
        except KeyboardInterrupt as error:
            raise Interrupted(f"stopped; {output.describe_saved()}", "the same command resumes from there") from error
        except NoSpace as error:
            raise NoSpace(f"{error.message}; {output.describe_saved()}", error.hint) from error
    wall, paths = time.perf_counter() - start, tuple(file.path for file in plan.files)
    return ConversionResult(paths, plan.n_bytes, tally.resumed_bytes, wall, tally.kernel_seconds, threads)


def _run(
    plan: ConversionPlan,
    output: PartialOutput,
    sources: InputFiles,
    threads: int,
    tally: _ProgressTracker,
    report: Callable[[ConversionProgress], None],
) -> None:
    """Keep workers busy until all slabs are written."""
    stop = threading.Event()
    done: queue.SimpleQueue[_ChunkResult] = queue.SimpleQueue()
    readers = _FileRefCounts(plan, output.finished, sources)
    work, lock = _remaining(plan, output.finished, sources, stop), threading.Lock()
    workers = [
        threading.Thread(target=_worker, args=(output, sources.files, work, lock, done, stop), daemon=True)
        for _ in range(threads)
    ]
    sources.begin(readers.needed)
    for worker in workers:
        worker.start()
    try:
        _collect(output, done, threads, tally, readers, report)
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def _remaining(
    plan: ConversionPlan, finished: frozenset[tuple[int, int]], sources: InputFiles, stop: threading.Event
) -> Iterator[_ChunkTask]:
    """The slabs that are to be made, in the order in which their files are there; waits for the files of the next."""
    tensors = [
        (file_number, number, planned)
        for file_number, file in enumerate(plan.files)
        for number, planned in enumerate(file.tensors)
        if (file_number, number) not in finished
    ]
    tensors.sort(key=lambda one: max(map(sources.position, one[2].paths)))
    for file_number, number, planned in tensors:
        sources.wait(planned.paths, stop)
        if stop.is_set():
            return
        for slab in iter_chunks(planned.tensor, chunk_rows(planned.tensor, planned.kind)):
            yield _ChunkTask(file_number, number, planned, slab)


class _FileRefCounts:
    """How many tensors each file is still needed for."""

    def __init__(self, plan: ConversionPlan, finished: frozenset[tuple[int, int]], sources: InputFiles) -> None:
        self._plan, self._sources = plan, sources
        keys = ((file, number) for file, one in enumerate(plan.files) for number in range(len(one.tensors)))
        self._count = Counter(path for key in keys if key not in finished for path in self._paths(key))
        self.needed = frozenset(self._count)

    def _paths(self, key: tuple[int, int]) -> frozenset[Path]:
        return self._plan.files[key[0]].tensors[key[1]].paths

    def finish(self, tensors: Iterable[tuple[int, int]]) -> None:
        """These tensors are on the disk."""
        for key in tensors:
            for path in self._paths(key):
                self._count[path] -= 1
                if not self._count[path]:
                    self._sources.release(path)


def _worker(
    output: PartialOutput,
    files: Mapping[Path, int],
    work: Iterator[_ChunkTask],
    lock: threading.Lock,
    done: queue.SimpleQueue[_ChunkResult],
    stop: threading.Event,
) -> None:
    """Encode and write slabs until there are none; an error is handed to the caller's thread."""
    scratch = ScratchBuffers({})
    try:
        while not stop.is_set():
            with lock:
                item = next(work, None)
            if item is None:
                break
            planned, slab = item.tensor, item.slab
            packed, seconds = quantize_chunk(planned.tensor, planned.kind, slab, planned.importance, files, scratch)
            offset = planned.offset + slab.first * planned.kind.row_bytes(planned.tensor.row_length)
            output.write(item.file, packed.data, offset)
            done.put(_ChunkResult(item, seconds))
        done.put(_ChunkResult(None))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the caller's thread must raise it
        done.put(_ChunkResult(None, error=error))


def _collect(
    output: PartialOutput,
    done: queue.SimpleQueue[_ChunkResult],
    threads: int,
    tally: _ProgressTracker,
    readers: _FileRefCounts,
    report: Callable[[ConversionProgress], None],
) -> None:
    """Count what the workers finish until all of them have ended; journal and report now and then."""
    running, report_at, journal_at = threads, 0.0, time.monotonic() + _JOURNAL_SECONDS
    try:
        while running:
            item = _next(done)
            if item and item.error:
                raise item.error
            if item and item.work:
                tally.add(item.work, item.kernel_seconds)
            elif item:
                running -= 1
            now = time.monotonic()
            if now >= report_at:
                report(tally.progress())
                report_at = now + _REPORT_SECONDS
            if now >= journal_at:
                readers.finish(tally.keep(output))
                journal_at = time.monotonic() + _JOURNAL_SECONDS
    finally:
        readers.finish(tally.keep(output))
    report(tally.progress())


def _next(done: queue.SimpleQueue[_ChunkResult]) -> _ChunkResult | None:
    """The next event, or None after a while, so that progress is reported during slow slabs."""
    try:
        return done.get(timeout=_REPORT_SECONDS)
    except queue.Empty:
        return None


class _ProgressTracker:
    """What is done: rows of each tensor, bytes, seconds."""

    def __init__(self, plan: ConversionPlan, finished: frozenset[tuple[int, int]]) -> None:
        self.resumed_bytes = sum(plan.files[file].tensors[number].n_bytes for file, number in finished)
        self.done_bytes = self.resumed_bytes
        self.kernel_seconds = 0.0
        self._total_bytes = sum(planned.n_bytes for file in plan.files for planned in file.tensors)
        self._layers = plan.config.layers
        self._current = ""
        self._rows: Counter[tuple[int, int]] = Counter()
        self._whole: list[tuple[int, int]] = []

    def add(self, work: _ChunkTask, kernel_seconds: float) -> None:
        """Count a slab that is written."""
        tensor, key = work.tensor.tensor, (work.file, work.number)
        self.kernel_seconds += kernel_seconds
        self.done_bytes += work.slab.rows * work.tensor.kind.row_bytes(tensor.row_length)
        self._current = tensor.name
        self._rows[key] += work.slab.rows
        if self._rows[key] == tensor.rows:
            self._whole.append(key)

    def keep(self, output: PartialOutput) -> list[tuple[int, int]]:
        """Record the tensors that have become whole since the last time, and name them.

        If that fails they are never recorded: a second fsync would succeed even though bytes are lost.
        """
        whole, self._whole = self._whole, []
        output.commit(whole)
        return whole

    def progress(self) -> ConversionProgress:
        """How far it is."""
        name = tensor_class(self._current, self._layers) if self._current else ""
        return ConversionProgress(self.done_bytes, self._total_bytes, self.resumed_bytes, name)
