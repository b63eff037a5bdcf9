"""`qwenctl clean`: removes what stopped downloads left behind."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from quantize.formatting import format_bytes
from qwenctl.commands.options import common as options
from qwenctl.commands.options import hub as hub_options
from qwenctl.commands.options.common import confirm
from qwenctl.commands.quantize.result import print_json, print_status
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.streams import text_writer

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, without removing it.")]


def clean_command(dry_run: DryRun = False, yes: hub_options.Yes = False, json: options.Json = False) -> None:
    """Remove what stopped downloads left behind.

    Asks first on a terminal. Complete models are never removed.
    """
    from qwenctl.hub.local.hf_cache import default_cache_root
    from qwenctl.hub.local.registry import registered_buffers, registered_roots
    from qwenctl.hub.local.stale_downloads import find_stale_downloads, stale_buffers

    roots = dict.fromkeys([default_cache_root().absolute(), *registered_roots()])
    found = [*(one for root in roots for one in find_stale_downloads(root)), *stale_buffers(registered_buffers())]
    total = sum(one.n_bytes for one in found)
    what = f"{len(found)} leftover{'s' * (len(found) != 1)}"
    if not json:
        text_writer(sys.stdout)(
            "".join(f"{format_bytes(one.n_bytes):>8}  {clean_line(str(one.path))}\n" for one in found)
        )
    if found and not dry_run and (yes or json or confirm(f"remove {what} ({format_bytes(total)})?")):
        for one in found:
            if one.path.is_dir():
                shutil.rmtree(one.path, ignore_errors=True)
            else:
                one.path.unlink(missing_ok=True)
        print_status(f"removed {what}: freed {format_bytes(total)}", quiet=json)
    elif not found:
        print_status("nothing to remove", quiet=json)
    if json:
        files = [{"path": str(one.path), "bytes": one.n_bytes} for one in found]
        print_json({"leftovers": files, "bytes": total, "removed": bool(found) and not dry_run})
