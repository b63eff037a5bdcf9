"""Execute a conversion plan with a pool of worker threads.

A `ConversionPlan` comes in; the GGUF files are on disk when `convert` returns, and they get their final names only when
they are complete. Each worker takes a row chunk, quantizes it and writes it at its offset; the caller's thread counts
finished tensors, reports progress and updates the journal. Memory use depends only on the number of workers.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import Interrupted, NoSpace
from quantize.input_files import InputFiles, check_unchanged, open_local_files
from quantize.layout import TensorPlan
from quantize.output.output_hashes import OutputHashes, hash_output
from quantize.output.partial_output import PartialOutput, is_made, open_output, translate_disk_errors
from quantize.plan import ConversionPlan
from quantize.recipe.tensor_classes import tensor_class
from quantize.row_chunks import RowChunk, ScratchBuffers, chunk_rows, iter_chunks, quantize_chunk

_REPORT_SECONDS = 0.1
_JOURNAL_SECONDS = 0.5


@dataclass(frozen=True)
class ConversionProgress:
    """Tensor bytes written so far, `resumed_bytes` of them by an earlier run; `tensor_class` is in progress."""

    done_bytes: int
    total_bytes: int
    resumed_bytes: int
    tensor_class: str


@dataclass(frozen=True)
class ConversionResult:
    """Result of a conversion. `kernel_seconds` is the time in ggml's quantization functions, summed over workers.

    `hashes` are the SHA-256 of the files, in hex.
    """

    paths: tuple[Path, ...]
    n_bytes: int
    resumed_bytes: int
    wall_seconds: float
    kernel_seconds: float
    threads: int
    hashes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _ChunkTask:
    """A row chunk to quantize: the index of its file in the plan and of its tensor in that file."""

    file_number: int
    tensor_number: int
    tensor: TensorPlan
    chunk: RowChunk


@dataclass(frozen=True)
class _ChunkResult:
    """A chunk that has been written. Without a `task`: a worker has ended, because of `error` if it is set."""

    task: _ChunkTask | None
    kernel_seconds: float = 0.0
    error: BaseException | None = None


def convert(
    plan: ConversionPlan,
    threads: int,
    report: Callable[[ConversionProgress], None] = lambda _: None,
    *,
    overwrite: bool = False,
    sources: InputFiles | None = None,
    on_renamed: Callable[[tuple[str, ...]], None] = lambda _: None,
) -> ConversionResult:
    """Write all files of `plan`, resuming an earlier run of the same plan that was stopped.

    `on_renamed` is called with the SHA-256 of the files when they have their names. If it is not reached, or does not
    return, the next run of the same plan calls it.

    Reads the plan's local files, or `sources` if given (for example shards that are still downloading). Raises the
    errors of `open_output` and `sources`, BadCheckpoint for weights that are not finite and for local files that were
    changed since they were planned, NoSpace, and Interrupted on KeyboardInterrupt. Finished tensors are saved, except
    after BadCheckpoint: the next run would meet it again.
    """
    start = time.perf_counter()
    with ExitStack() as stack:
        output = stack.enter_context(open_output(plan, overwrite=overwrite))
        tracker = _ProgressTracker(plan, output.finished)
        try:
            # Local files are opened inside the stack, so that they are closed after the workers have ended.
            inputs = sources or stack.enter_context(open_local_files(plan))
            hashes = _run_pool(plan, output, inputs, threads, tracker, report)
            if sources is None:
                check_unchanged(plan, inputs.files)
            output.finish(hashes, lambda: on_renamed(hashes))
        except KeyboardInterrupt as error:
            raise Interrupted(f"stopped; {output.describe_saved()}", "the same command resumes from there") from error
        except NoSpace as error:
            raise NoSpace(f"{error.message}; {output.describe_saved()}", error.hint) from error
    wall, paths = time.perf_counter() - start, tuple(file.path for file in plan.files)
    return ConversionResult(paths, plan.n_bytes, tracker.resumed_bytes, wall, tracker.kernel_seconds, threads, hashes)


def made_result(
    plan: ConversionPlan, hashes: Sequence[str], on_check: Callable[[], None] = lambda: None
) -> ConversionResult | None:
    """The result of an earlier run that has made all files of `plan` with these SHA-256; None if they are not there.

    `on_check` is called before the files are read, which takes a while for large ones. Raises as
    `translate_disk_errors`.
    """
    start = time.perf_counter()
    with translate_disk_errors(plan.files[0].path):
        if not hashes or not is_made(plan, hashes, on_check):
            return None
    wall, paths = time.perf_counter() - start, tuple(file.path for file in plan.files)
    return ConversionResult(paths, plan.n_bytes, plan.n_bytes, wall, 0.0, 0, tuple(hashes))


def _run_pool(
    plan: ConversionPlan,
    output: PartialOutput,
    sources: InputFiles,
    threads: int,
    tracker: _ProgressTracker,
    report: Callable[[ConversionProgress], None],
) -> tuple[str, ...]:
    """Run the worker threads until all chunks are written or one of them fails; the SHA-256 of each file."""
    stop = threading.Event()
    done: queue.SimpleQueue[_ChunkResult] = queue.SimpleQueue()
    ref_counts = _FileRefCounts(plan, output.finished, sources)
    # All workers share one generator. Two threads must not advance it at the same time, hence the lock.
    tasks, lock = _iter_tasks(plan, output.finished, sources, stop), threading.Lock()
    workers = [
        threading.Thread(target=_run_worker, args=(output, sources.files, tasks, lock, done, stop), daemon=True)
        for _ in range(threads)
    ]
    sources.start(ref_counts.needed)
    for worker in workers:
        worker.start()
    with hash_output(plan.files[: len(output.files)], output.files, output.finished) as hashes:
        try:
            _collect_results(output, done, threads, tracker, ref_counts, report, hashes)
            if output.is_complete:
                return output.known_hashes()
            while (found := hashes.wait(_REPORT_SECONDS)) is None:
                report(tracker.progress())
            return found
        finally:
            # Workers check the flag between chunks and while they wait for files, so the joins are short.
            stop.set()
            for worker in workers:
                worker.join()


def _iter_tasks(
    plan: ConversionPlan, finished: frozenset[tuple[int, int]], sources: InputFiles, stop: threading.Event
) -> Iterator[_ChunkTask]:
    """Yield the chunks of all unfinished tensors, in the order in which their files arrive; blocks until they do."""
    tensors = [
        (file_number, number, tensor_plan)
        for file_number, file in enumerate(plan.files)
        for number, tensor_plan in enumerate(file.tensors)
        if (file_number, number) not in finished
    ]
    # A tensor can start when the last of its files has arrived. The sort is stable: local files keep the file order.
    tensors.sort(key=lambda entry: max(map(sources.position, entry[2].source_paths)))
    for file_number, number, tensor_plan in tensors:
        sources.wait(tensor_plan.source_paths, stop)
        if stop.is_set():
            return
        for chunk in iter_chunks(tensor_plan.tensor, chunk_rows(tensor_plan.tensor, tensor_plan.ggml_type)):
            yield _ChunkTask(file_number, number, tensor_plan, chunk)


class _FileRefCounts:
    """Counts how many unfinished tensors still need each source file, and releases files at zero."""

    def __init__(self, plan: ConversionPlan, finished: frozenset[tuple[int, int]], sources: InputFiles) -> None:
        self._plan, self._sources = plan, sources
        keys = ((file, number) for file, file_plan in enumerate(plan.files) for number in range(len(file_plan.tensors)))
        self._counts = Counter(path for key in keys if key not in finished for path in self._paths(key))
        self.needed = frozenset(self._counts)

    def _paths(self, key: tuple[int, int]) -> frozenset[Path]:
        return self._plan.files[key[0]].tensors[key[1]].source_paths

    def release_finished(self, tensors: Iterable[tuple[int, int]]) -> None:
        """Count down the files of tensors that are now on disk; release each file that no tensor needs any more."""
        for key in tensors:
            for path in self._paths(key):
                self._counts[path] -= 1
                if not self._counts[path]:
                    self._sources.release(path)


def _run_worker(
    output: PartialOutput,
    files: Mapping[Path, int],
    tasks: Iterator[_ChunkTask],
    lock: threading.Lock,
    done: queue.SimpleQueue[_ChunkResult],
    stop: threading.Event,
) -> None:
    """Quantize and write chunks until none are left; an error is passed to the caller's thread through `done`."""
    scratch = ScratchBuffers({})
    try:
        while not stop.is_set():
            with lock:  # may wait for a file inside; the other workers would have to wait for it, too
                task = next(tasks, None)
            if task is None:
                break
            tensor_plan, chunk = task.tensor, task.chunk
            packed, seconds = quantize_chunk(
                tensor_plan.tensor, tensor_plan.ggml_type, chunk, tensor_plan.importance, files, scratch
            )
            offset = tensor_plan.offset + chunk.first * tensor_plan.ggml_type.row_bytes(tensor_plan.tensor.row_length)
            output.write(task.file_number, packed.data, offset)
            done.put(_ChunkResult(task, seconds))
        done.put(_ChunkResult(None))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the caller's thread must raise it
        done.put(_ChunkResult(None, error=error))


def _collect_results(
    output: PartialOutput,
    done: queue.SimpleQueue[_ChunkResult],
    threads: int,
    tracker: _ProgressTracker,
    ref_counts: _FileRefCounts,
    report: Callable[[ConversionProgress], None],
    hashes: OutputHashes,
) -> None:
    """Process results until all workers have ended; report progress and update the journal at intervals."""
    n_running, report_at, journal_at = threads, 0.0, time.monotonic() + _JOURNAL_SECONDS
    try:
        while n_running:
            result = _next_result(done)
            if result and result.error:
                raise result.error
            if result and result.task:
                if tracker.add(result.task, result.kernel_seconds):
                    hashes.add((result.task.file_number, result.task.tensor_number))
            elif result:
                n_running -= 1
            now = time.monotonic()
            if now >= report_at:
                report(tracker.progress())
                report_at = now + _REPORT_SECONDS
            if now >= journal_at:
                ref_counts.release_finished(tracker.commit_finished(output))
                journal_at = time.monotonic() + _JOURNAL_SECONDS  # the sync may have taken longer than the interval
    finally:
        # Also after an error or Ctrl-C, so that the next run can resume from here.
        ref_counts.release_finished(tracker.commit_finished(output))
    report(tracker.progress())


def _next_result(done: queue.SimpleQueue[_ChunkResult]) -> _ChunkResult | None:
    """Wait for the next result; None after a timeout, so that progress is reported during slow chunks."""
    try:
        return done.get(timeout=_REPORT_SECONDS)
    except queue.Empty:
        return None


class _ProgressTracker:
    """Tracks finished rows per tensor, bytes written and kernel seconds."""

    def __init__(self, plan: ConversionPlan, finished: frozenset[tuple[int, int]]) -> None:
        self.resumed_bytes = sum(plan.files[file].tensors[number].n_bytes for file, number in finished)
        self.done_bytes = self.resumed_bytes  # of tensor data, in the output types
        self.kernel_seconds = 0.0
        self._total_bytes = sum(tensor_plan.n_bytes for file in plan.files for tensor_plan in file.tensors)
        self._layers = plan.config.layers
        self._current_name = ""
        self._rows: Counter[tuple[int, int]] = Counter()  # written rows by (file index, tensor index)
        self._uncommitted: list[tuple[int, int]] = []  # complete, but not in the journal yet

    def add(self, task: _ChunkTask, kernel_seconds: float) -> bool:
        """Count a chunk that has been written; whether all of its tensor is."""
        tensor, key = task.tensor.tensor, (task.file_number, task.tensor_number)
        self.kernel_seconds += kernel_seconds
        self.done_bytes += task.chunk.rows * task.tensor.ggml_type.row_bytes(tensor.row_length)
        self._current_name = tensor.name
        self._rows[key] += task.chunk.rows
        is_complete = self._rows[key] == tensor.rows  # chunks finish in any order, so only the number of rows counts
        if is_complete:
            self._uncommitted.append(key)
        return is_complete

    def commit_finished(self, output: PartialOutput) -> list[tuple[int, int]]:
        """Record the tensors completed since the last call in the journal, and return their keys.

        If that fails they are never recorded: a second fsync would succeed even though bytes are lost.
        """
        completed, self._uncommitted = self._uncommitted, []
        output.commit(completed)
        return completed

    def progress(self) -> ConversionProgress:
        """Return the current progress."""
        name = tensor_class(self._current_name, self._layers) if self._current_name else ""
        return ConversionProgress(self.done_bytes, self._total_bytes, self.resumed_bytes, name)
