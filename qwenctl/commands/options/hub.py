"""The options that commands for models on the Hub share, declared once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from qwenctl.commands.options import common as options
from qwenctl.errors import QwenctlError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """The seconds in a duration such as 90, 90s, 5m or 2h. Raises BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", text.strip().lower())
    if not found:
        raise typer.BadParameter(f"'{text}' is not a time such as 90, 90s, 5m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def one_revision(typed: str, named: str) -> str:
    """The revision in --revision (`typed`) or in the model's name; "" for neither. Raises QwenctlError for two."""
    if typed and named and typed != named:
        raise QwenctlError(f"--revision {typed}, but the name has {named}", "leave one of them out")
    return typed or named


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Repository OWNER/NAME[:QUANT], or a short name such as qwen3.5-35b-a3b[:QUANT]."
    ),
]
HfName = Annotated[str, typer.Option("-hf", "--hf-repo", metavar="NAME", help="Same as NAME, for llama.cpp users.")]
Revision = Annotated[
    str, typer.Option("--revision", metavar="COMMIT", help="Branch, tag or commit of the repository; default: main.")
]
To = Annotated[
    Path | None,
    typer.Option(
        "--to", metavar="DIR", help="Folder to store it in, laid out like the Hugging Face cache, which is the default."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not use the network; use local files only.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask for confirmation.")]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait", metavar="TIME", parser=parse_seconds,
        help="How long to wait for another process that is pulling the same model; no limit by default.",
    ),
]  # fmt: skip
Patience = Annotated[
    float | None,
    typer.Option(
        "--patience", metavar="TIME", parser=parse_seconds,
        help="Give up when nothing has arrived for this long; default: 5m.",
    ),
]  # fmt: skip

Connections = Annotated[int, typer.Option("--connections", min=1, max=64, metavar="N", help="Parallel connections.")]
Spool = Annotated[
    int | None,
    typer.Option(
        "--spool", metavar="SIZE", parser=options.parse_size,
        help="Maximum disk space for parts of a checkpoint while it is quantized; default: 50GB.",
    ),
]  # fmt: skip
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but the path.")]
