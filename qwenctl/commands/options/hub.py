"""The options of the commands that deal with models of the Hub, declared once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from qwenctl.commands.options import common as options

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """The time that `text` means: 90, 90s, 5m, 2h. Raises BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", text.strip().lower())
    if not found:
        raise typer.BadParameter(f"'{text}' is no time such as 90, 90s, 5m or 2h")
    return float(found[1]) * _UNITS[found[2]]


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="OWNER/NAME[:QUANT] of a repository, or a short name such as qwen3.5-35b-a3b[:QUANT]."
    ),
]
HfName = Annotated[str, typer.Option("-hf", "--hf-repo", metavar="NAME", help="The same as NAME, in llama.cpp's way.")]
Revision = Annotated[str, typer.Option("--revision", metavar="COMMIT", help="Branch, tag or commit; main by default.")]
To = Annotated[
    Path | None,
    typer.Option(
        "--to", metavar="DIR", help="Keep it in this folder instead of the Hugging Face cache, laid out alike."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Ask nobody: use what is here.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait", metavar="TIME", parser=parse_seconds,
        help="How long to wait for another process that pulls the same model; as long as it takes by default.",
    ),
]  # fmt: skip
Patience = Annotated[
    float | None,
    typer.Option(
        "--patience", metavar="TIME", parser=parse_seconds,
        help="Give up when no byte has come for this long; 5m by default.",
    ),
]  # fmt: skip

Connections = Annotated[int, typer.Option("--connections", min=1, max=64, metavar="N", help="Connections at once.")]
Spool = Annotated[
    int | None,
    typer.Option(
        "--spool", metavar="SIZE", parser=options.parse_size,
        help="Most of a checkpoint that lies here while it is quantized; 50G by default.",
    ),
]  # fmt: skip
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only the path.")]
