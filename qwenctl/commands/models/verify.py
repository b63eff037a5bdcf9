"""`qwenctl verify`: checks the files of local models against their hashes."""

from __future__ import annotations

import re
import shlex
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantize.formatting import format_bytes
from qwenctl.commands.options import common as options
from qwenctl.commands.options.local_model import AnyName, find_installed
from qwenctl.commands.quantize.result import available_cpus, print_json, print_status
from qwenctl.errors import ExitCode, QwenctlError, command_line
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.streams import text_writer

if TYPE_CHECKING:
    from qwenctl.hub.local.installed import InstalledModel
    from qwenctl.hub.local.verification import ExpectedFile


Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only problems.")]
_PROBLEMS = ("damaged", "missing")
_REPORT_SECONDS = 0.1


def verify_command(name: AnyName = "", json: options.Json = False, quiet: Quiet = False) -> None:
    """Check the files of local models against their hashes.

    The hashes are those that the files were published with, or had when they were made here.
    """
    models = find_installed(name, or_file=True, damaged=True)
    rows, troubles = _check(models, quiet=quiet or json)
    if json:
        print_json({"files": [row for row in rows if not quiet or row["state"] in _PROBLEMS]})
        if troubles:
            raise SystemExit(troubles[0].code)
        return
    if not quiet:
        text_writer(sys.stdout)(
            "".join(f"{row['state']:<9}{row['file']}  {format_bytes(row['bytes'])}\n" for row in rows)
        )
    if troubles:
        more = f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""
        raise QwenctlError(f"{troubles[0].message}{more}", troubles[0].hint, troubles[0].code)
    unknown = sum(row["state"] == "no hash" for row in rows)
    more = f"; {unknown} without a known hash" if unknown else ""
    print_status(f"{_count(len(rows) - unknown)} intact{more}", quiet=quiet)


def _count(n_files: int) -> str:
    return "1 file is" if n_files == 1 else f"{n_files} files are"


def _check(models: list[InstalledModel], *, quiet: bool) -> tuple[list[dict[str, Any]], list[QwenctlError]]:
    """A row of output for each file, and the errors."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from qwenctl.hub.download.downloader import Progress
    from qwenctl.hub.local.verification import check_file, expected_files
    from qwenctl.views.pull import pull_progress

    files = {one.path: (one, model) for model in models for one in expected_files(model)}
    total = sum(one.path.stat().st_size for one, _ in files.values() if one.path.exists())
    read, lock, stop = [0], threading.Lock(), threading.Event()

    def follow(n_bytes: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        with lock:
            read[0] += n_bytes

    with pull_progress(sys.stderr, quiet=quiet) as (shown, _), ThreadPoolExecutor(available_cpus()) as pool:
        shown.notify(f"reading {len(files)} file{'s' * (len(files) != 1)}, {format_bytes(total)}")
        jobs = [
            pool.submit(check_file, one, _repair_command(model), follow, made_here=model.cache is None)
            for one, model in files.values()
        ]
        try:
            while not all(job.done() for job in jobs):
                shown.report(Progress((), read[0], total, 0, ""))
                time.sleep(_REPORT_SECONDS)
        finally:  # on Ctrl-C stop at once, in the middle of files
            stop.set()
            pool.shutdown(cancel_futures=True)
        found = [job.result() for job in jobs]
        shown.report(Progress((), total, total, 0, ""))
    rows = [_row(one, trouble) for (one, _), trouble in zip(files.values(), found, strict=True)]
    return rows, [trouble for trouble in found if trouble]


def _row(one: ExpectedFile, trouble: QwenctlError | None) -> dict[str, Any]:
    states = {ExitCode.BAD_DATA: "damaged", ExitCode.NO_INPUT: "missing"}
    state = states.get(trouble.code, "damaged") if trouble else "ok" if one.etag else "no hash"
    n_bytes = one.path.stat().st_size if one.path.exists() else 0
    return {
        "file": clean_line(one.name), "path": str(one.path), "bytes": n_bytes, "state": state, "expected": one.etag,
        "message": trouble.message if trouble else None,
    }  # fmt: skip


def _repair_command(model: InstalledModel) -> str:
    """The command that repairs the model."""
    from qwenctl.hub.local.hf_cache import default_cache_root

    if model.cache is None:
        return _quantize_command(model)
    # Without a revision, a pull takes what main is now; and it looks into the default cache.
    main = model.cache.resolve_revision("main")
    revision = [] if main in ("main", model.commit) else ["--revision", model.commit]
    to = [] if model.cache.root == default_cache_root().absolute() else ["--to", str(model.cache.root)]
    what = [model.repository, "--source"] if model.quant == "checkpoint" else [model.name]
    return command_line("pull", *what, *revision, *to, "--repair")


def _quantize_command(model: InstalledModel) -> str:
    """The command that makes a model again that was quantized here, as far as its lock file tells."""
    from qwenctl.hub.local.verification import find_lock_entries

    entry = next(iter(find_lock_entries(model)), None)
    options = shlex.split(entry.recipe) if entry else [model.quant] if model.quant else []
    if "--imatrix" in options:  # only its hash is known
        options[options.index("--imatrix") + 1] = "IMATRIX_FILE"
    source = entry.repository if entry else model.repository
    is_known = "/" in source  # of a checkpoint that was a folder, only the name is known
    revision = ["--revision", entry.commit] if entry and entry.commit and is_known else []
    output = re.sub(r"-00001-of-\d{5}(?=\.gguf$)", "", str(model.path))
    what = [source if is_known else "CHECKPOINT_FOLDER", *(["--type", *options] if options else []), *revision]
    return command_line("quantize", *what, "-o", output, "--overwrite")
