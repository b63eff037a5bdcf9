"""A whole batch in one call: opens the input, the output and the backend, and answers the records.

Frozen values come in, statistics go out. Anything that ends a batch early becomes a `QwenctlError` that says how many
records are done; those are on disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from qwenctl.batch.backends.backend import BackendSpec, BatchBackend
from qwenctl.batch.input.selection import count_records, open_source, select_records
from qwenctl.batch.output.opening import lock_output, open_output, resume_settings
from qwenctl.batch.output.writers import ResultWriter
from qwenctl.batch.records import GenerationParams
from qwenctl.batch.runner import BatchRunner, BatchStats, RunSettings, SeveralAnswersBackend
from qwenctl.batch.specs import InputSpec, OutputSpec, check_apart
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.terminal.streams import warn

_DEFAULT_PARAMS = GenerationParams()


def run(
    *,
    input: InputSpec,  # noqa: A002 - the name that says it best
    output: OutputSpec,
    backend: BackendSpec,
    params: GenerationParams = _DEFAULT_PARAMS,
    on_progress: Callable[[BatchStats], None] = lambda _: None,
    on_warning: Callable[[str], None] = warn,
) -> BatchStats:
    """Answer the records of `input` with `backend`, and write the answers to `output`.

    `params` are the defaults for what a record leaves out. `on_progress` gets the statistics about twice a second and
    at the end; they are also returned. Failed records are counted there, and listed in a file beside the output.

    Raises QwenctlError for anything that ends the batch: INTERRUPTED for Ctrl-C, TERMINATED for SIGTERM if that raises
    SystemExit. Raises OSError for an input that cannot be read, BrokenPipeError if the reader of standard output left.
    """
    check_apart(input, output)
    with lock_output(output, on_warning):
        form = input.format(params)
        with open_source(input) as stream:
            total = count_records(input, stream)
            identity = backend.identity()
            writer = open_output(output, resume_settings(input, output, params, identity), on_warning)
            with _closed_on_failure(writer):
                answers = SeveralAnswersBackend(backend.open(input, on_warning), input.seed)
            settings = RunSettings(output.style, output.select, input.seed, identity, total)
            runner = BatchRunner(settings, writer, answers, on_progress)
            with _ended_in_order(runner, writer, answers, can_resume=not output.is_standard_output):
                return runner.run(select_records(input, form, stream))


@contextlib.contextmanager
def _closed_on_failure(writer: ResultWriter) -> Iterator[None]:
    """Inside, any exception closes the writer."""
    try:
        yield
    except BaseException:
        _close_quietly(writer)
        raise


@contextlib.contextmanager
def _ended_in_order(
    runner: BatchRunner, writer: ResultWriter, backend: BatchBackend, *, can_resume: bool
) -> Iterator[None]:
    """Inside, whatever ends the batch closes the writer first, and its error says how to resume."""
    resume = "the same command resumes" if can_resume else ""
    try:
        yield
        writer.close(is_complete=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _close_quietly(writer)
        where = f"{error.filename}: " if error.filename else "the output: "
        reason = (error.strerror or str(error)).lower()
        hint = f"then {resume}" if resume else ""
        raise QwenctlError(f"{where}{reason}; {_describe_progress(runner.stats)}", hint, ExitCode.IO) from error
    except QwenctlError as error:
        _close_quietly(writer)
        if not runner.stats.settled:
            raise
        hint = error.hint if error.code == ExitCode.USAGE else _join_hints(error.hint, resume)
        raise QwenctlError(f"{error.message}; {_describe_progress(runner.stats)}", hint, error.code) from error
    except KeyboardInterrupt as stopped:
        writer.close(is_complete=False)
        raise QwenctlError(f"stopped; {_describe_progress(runner.stats)}", resume, ExitCode.INTERRUPTED) from stopped
    except SystemExit as stopped:  # SIGTERM
        writer.close(is_complete=False)
        code = ExitCode(stopped.code) if isinstance(stopped.code, int) else ExitCode.TERMINATED
        raise QwenctlError(f"stopped; {_describe_progress(runner.stats)}", resume, code) from stopped
    finally:
        backend.close()


def _close_quietly(writer: ResultWriter) -> None:
    """Close without a second error: the one that ends the batch is reported already."""
    with contextlib.suppress(OSError):
        writer.close(is_complete=False)


def _describe_progress(stats: BatchStats) -> str:
    """How far the batch got, in words."""
    of = f" of {stats.total:,}" if stats.total is not None else ""
    return f"{stats.known + stats.answered:,}{of} records are done"


def _join_hints(*hints: str) -> str:
    """The hints as one, without those that another one includes."""
    return "; ".join(hint for at, hint in enumerate(hints) if hint and not any(hint in one for one in hints[:at]))
