"""Opens the output of a batch as its `OutputSpec` says: a file that is locked and can be resumed, or a stream.

The settings that must not change when a batch is resumed are listed here, by option. They are stored in the statistics
file, so their names and values must stay those of earlier releases.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwenctl.batch.output.writers import FileOutput, ResultWriter, StreamOutput, remove_output
from qwenctl.batch.records import GenerationParams
from qwenctl.batch.specs import InputSpec, OutputSpec
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.locks import file_lock


@contextmanager
def lock_output(given: OutputSpec, warn: Callable[[str], None]) -> Iterator[None]:
    """Inside, no other process writes this output. Raises QwenctlError if one does, or if there is no such folder."""
    path = Path(given.path)
    if _is_stream(given):
        yield
        return
    if not path.parent.is_dir():
        raise QwenctlError(f"no folder {path.parent}", f"mkdir -p {path.parent}", ExitCode.CANNOT_CREATE)
    lock = path.with_name(f"{path.name}.lock")
    with file_lock(lock, 0, warn, "is writing this output", "wait until it ends, or choose another -o"):
        yield


def open_output(given: OutputSpec, settings: Mapping[str, Any], warn: Callable[[str], None]) -> ResultWriter:
    """The writer for answers; an existing file must have been written with the same `settings`.

    Without an errors file, `warn` is called for each failed record. Raises QwenctlError, OSError.
    """
    path = Path(given.path)
    if _is_stream(given):
        if given.is_standard_output and sys.stdout is None:
            raise QwenctlError("standard output is closed", "-o OUT.jsonl", ExitCode.IO)
        return StreamOutput(given.order, warn, None if given.is_standard_output else path)
    if given.overwrite:
        remove_output(path)
    return FileOutput(path, settings, given.order, force=given.resume == "force", retries=given.retry_errors)


def _is_stream(given: OutputSpec) -> bool:
    """Whether the output is standard output, or a named pipe or device."""
    path = Path(given.path)
    return given.is_standard_output or (path.exists() and not path.is_file())


def resume_settings(
    source: InputSpec, output: OutputSpec, params: GenerationParams, backend: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that must not change when a batch is resumed, by option; `backend` is the backend's identity."""
    return {
        **backend,
        "think": params.think,
        "think-budget": params.think_budget,
        "max-tokens": params.max_tokens,
        "grammar": output.recorded_as.get("grammar", params.grammar or None),
        "json-schema": output.recorded_as.get("json_schema", params.json_schema or None),
        **{f"--{name.replace('_', '-')}": value for name, value in params.sampling.items()},
        "seed": source.seed,
        "--prompt": source.prompt,
        "--system": source.system,
        "--prefix": _digest(source.prefix) if source.prefix is not None else None,
        "--keep": list(source.passthrough),
        "--format": output.style,
        "--select": output.select,
        "--order": output.order,
        "kind": source.kind,
    }


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
