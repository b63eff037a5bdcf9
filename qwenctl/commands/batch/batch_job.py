"""What `qwenctl batch` does: its input, its output and who answers are opened, and the batch is run between them.

Values of options come in. Progress and the summary go to standard error, answers where they were wanted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qwenctl.commands.batch.batch_input import (
    check_options,
    count_records,
    input_format,
    load_prefix,
    open_source,
    select_records,
)
from qwenctl.commands.batch.batch_request import BatchOptions
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.terminal.streams import StatusLine, text_writer, warn
from qwenctl.views.loading import follow_loading

if TYPE_CHECKING:
    from qwenctl.batch.backends.backend import BatchBackend
    from qwenctl.batch.output.writers import ResultWriter
    from qwenctl.batch.runner import BatchStats, OutputSettings
    from qwenctl.protocol.messages import Message

_PER_ENDPOINT = 16


def run_batch(given: BatchOptions) -> None:
    """Run the batch, or look at what it would be. Raises QwenctlError, and typer's Exit where records have failed."""
    check_options(given)
    if given.dry_run:
        from qwenctl.commands.batch.dry_run import dry_run

        dry_run(given, _answerer)
        return
    path = Path(given.output)
    if given.output == "-" or (path.exists() and not path.is_file()):
        figures = _run(given, lambda: _stream(given, path))
    else:
        from qwenctl.files.locks import file_lock

        if not path.parent.is_dir():
            raise QwenctlError(f"no folder {path.parent}", f"mkdir -p {path.parent}", ExitCode.CANNOT_CREATE)
        lock = path.with_name(f"{path.name}.lock")
        with file_lock(lock, 0, warn, "writes this output", "wait until it has ended, or give another -o"):
            figures = _run(given, lambda: _file(given, path))
    _show(given, figures)
    if figures.failed:
        import typer

        raise typer.Exit(ExitCode.SOME_FAILED)


def _stream(given: BatchOptions, path: Path) -> ResultWriter:
    """Standard output, or a pipe or device by its name."""
    from qwenctl.batch.output.writers import StreamOutput

    if given.output == "-" and sys.stdout is None:
        raise QwenctlError("standard output is closed", "-o OUT.jsonl names a file", ExitCode.IO)
    return StreamOutput(given.order, warn, None if given.output == "-" else path)


def _file(given: BatchOptions, path: Path) -> ResultWriter:
    from qwenctl.batch.output.writers import FileOutput, remove_output

    if given.overwrite:
        remove_output(path)
    return FileOutput(path, resume_settings(given), given.order, force=given.force, retries=given.retry_errors)


def _run(given: BatchOptions, open_output: Callable[[], ResultWriter]) -> BatchStats:
    from qwenctl.batch.runner import BatchRunner
    from qwenctl.views.batch import batch_progress

    form = input_format(given)
    report, clear = batch_progress(sys.stderr, quiet=given.quiet)
    with open_source(given) as (stream, name):
        total = count_records(given, stream)
        output = open_output()
        answerer = _answerer(given)
        batch = BatchRunner(plan_of(given, total), output, answerer, report)
        with _kept(given, batch, output, answerer, clear):
            return batch.run(select_records(given, stream, name, form))


def plan_of(given: BatchOptions, total: int | None) -> OutputSettings:
    """How answers are written, and what determines them."""
    from qwenctl.batch.runner import OutputSettings

    return OutputSettings(given.style, given.select, given.seed, _answered_by(given), total)


@contextlib.contextmanager
def _kept(
    given: BatchOptions, batch: Any, output: ResultWriter, answerer: BatchBackend, clear: Callable[[], None]
) -> Iterator[None]:
    """Whatever ends the batch: what is done is on the disk, and it is said how to go on."""
    try:
        yield
        output.close(is_complete=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _close_quietly(output)
        where = f"{error.filename}: " if error.filename else "the output: "
        reason = (error.strerror or str(error)).lower()
        raise QwenctlError(f"{where}{reason}; {_done(batch)}", _go_on(given, "then "), ExitCode.IO) from error
    except QwenctlError as error:
        _close_quietly(output)
        if not batch.figures.settled:
            raise
        hint = error.hint if error.code == ExitCode.USAGE else _joined(error.hint, _go_on(given))
        raise QwenctlError(f"{error.message}; {_done(batch)}", hint, error.code) from error
    except KeyboardInterrupt as stopped:
        output.close(is_complete=False)
        raise QwenctlError(f"stopped; {_done(batch)}", _go_on(given), ExitCode.INTERRUPTED) from stopped
    except SystemExit as stopped:  # SIGTERM
        output.close(is_complete=False)
        code = ExitCode(stopped.code) if isinstance(stopped.code, int) else ExitCode.TERMINATED
        raise QwenctlError(f"stopped; {_done(batch)}", _go_on(given), code) from stopped
    finally:
        clear()
        answerer.close()


def _close_quietly(output: ResultWriter) -> None:
    """What cannot be brought to the disk any more has been told already."""
    with contextlib.suppress(OSError):
        output.close(is_complete=False)


def _done(batch: Any) -> str:
    figures = batch.figures
    of = f" of {figures.total:,}" if figures.total is not None else ""
    return f"{figures.known + figures.answered:,}{of} records are done"


def _go_on(given: BatchOptions, before: str = "") -> str:
    return "" if given.output == "-" else f"{before}the same command goes on"


def _joined(*hints: str) -> str:
    return "; ".join(hint for at, hint in enumerate(hints) if hint and not any(hint in one for one in hints[:at]))


def _answered_by(given: BatchOptions) -> dict[str, Any]:
    """What determines answers beside their records."""
    if given.endpoints:
        return {"model": str(given.model or ""), "endpoint": True}
    from qwenctl.commands.chat.chat_job import resolve_model
    from qwenctl.models.gguf_check import fingerprint

    engine = given.engine
    return {
        "model": fingerprint(resolve_model(given.model)),
        "room": engine.context_tokens,
        "cache": f"{engine.cache_type_k} {engine.cache_type_v}",
    }


def resume_settings(given: BatchOptions) -> dict[str, Any]:
    """What must be the same for a batch that goes on, by the names of options."""
    wanted = {name.replace("_", "-"): value for name, value in given.wanted.items()}
    return {
        **_answered_by(given),
        **{name: value for name, value in wanted.items() if name != "sampling"},
        **{f"--{name.replace('_', '-')}": value for name, value in given.wanted["sampling"].items()},
        "seed": given.seed,
        "--prompt": given.prompt,
        "--system": given.system,
        "--prefix": _digest(load_prefix(given.prefix).text) if given.prefix is not None else None,
        "--keep": list(given.keep),
        "--format": given.style,
        "--select": given.select,
        "--order": given.order,
        "kind": given.kind,
    }


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _answerer(given: BatchOptions) -> BatchBackend:
    if given.endpoints:
        from qwenctl.batch.backends.openai_client import EndpointConfig, OpenAIBackend

        return OpenAIBackend(
            EndpointConfig(
                given.endpoints, str(given.model or ""), given.parallel or _PER_ENDPOINT, given.timeout,
                given.patience, given.seed, given.api_key,
            )
        )  # fmt: skip
    return _local(given)


def _local(given: BatchOptions) -> BatchBackend:
    from shutil import rmtree

    from qwenctl.batch.backends.engine_backend import BatchEngine, EngineBackend, EngineBackendConfig
    from qwenctl.commands.chat.chat_job import resolve_model
    from qwenctl.commands.options.load_options import with_room_for
    from qwenctl.commands.options.vision_options import vision_settings
    from qwenctl.engine.client import Engine
    from qwenctl.files.atomic import temp_dir_path
    from qwenctl.files.media_files import MediaSource
    from qwenctl.loading.checked_backend import start_engine
    from qwenctl.loading.open_for_batch import plan_batch
    from qwenctl.protocol.batch import StartBatch
    from qwenctl.protocol.load import ModelInfo
    from qwenctl.tune.store import find, with_tuned_threads

    path = resolve_model(given.model)
    vision = vision_settings(path, given.pictures)
    settings, most = with_tuned_threads(given.engine, find(path)), given.parallel or max_parallel(given, path)
    asked = with_room_for(given.asked, vision.mmproj)
    planned = plan_batch(path, asked, settings, most, fixed=given.parallel > 0)

    def start() -> tuple[BatchEngine, ModelInfo]:
        status = StatusLine(None if given.quiet else sys.stderr)
        opened = planned.open(start_engine, lambda events: follow_loading(events, status), warn)
        try:
            opened.engine.configure_vision(vision)
            return cast("Engine", opened.engine), opened.loaded
        except BaseException:
            opened.engine.close()
            raise

    opening = StartBatch(planned.settings, given.parallel, planned.most, given.share, *_beginning(given))
    folder = temp_dir_path()
    pictures = MediaSource(folder, given.pictures.allows_urls, copies=False)
    return EngineBackend(
        EngineBackendConfig(start, opening, given.seed, warn, pictures, lambda: rmtree(folder, ignore_errors=True))
    )


def _beginning(given: BatchOptions) -> tuple[tuple[Message, ...], str]:
    """The message of a kept prefix, and the file of its state for batches."""
    from qwenctl.protocol.messages import Message

    prefix = load_prefix(given.prefix) if given.prefix is not None else None
    if prefix is None or not prefix.name:
        return (), ""
    file = prefix.store.state_file(prefix.name)
    return (Message("system", prefix.text),), str(file.with_name(f"{file.name}.batch"))


def max_parallel(given: BatchOptions, path: Path) -> int:
    """How many records there is memory for, and use: half of what is free may go into their contexts."""
    import psutil

    from qwenctl.models.context_memory import of_file
    from qwenctl.protocol.batch import RECORD_TOKENS

    most = min(64, given.limit or 64, given.sample or 64)
    memory = of_file(path)
    if memory is None:
        return most
    room = given.engine.context_tokens or RECORD_TOKENS
    free = psutil.virtual_memory().available // 2
    return max(1, min(most, free // (memory.token_bytes * room + memory.state_bytes)))


def _show(given: BatchOptions, figures: BatchStats) -> None:
    from qwenctl.views.batch import summary_fields, summary_lines

    if given.plot is not None:
        from qwenctl.charts.batch import draw

        given.plot.write_text(draw(f"qwenctl batch, {figures.answered:,} records", figures.rates, figures.seconds))
    stream = sys.stderr if given.output == "-" else sys.stdout
    if given.json:
        text_writer(stream)(json.dumps(summary_fields(figures)) + "\n")
    elif not given.quiet and sys.stderr is not None:
        lines = summary_lines(figures)
        if figures.failed and given.output != "-":
            from qwenctl.batch.output.writers import sidecar_path

            lines.append(f"failed   {sidecar_path(Path(given.output), 'errors')}; --retry-errors tries them again")
        text_writer(sys.stderr)("".join(f"{line}\n" for line in lines))
