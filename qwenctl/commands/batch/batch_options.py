"""The options that only `qwenctl batch` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qwenctl.errors import QwenctlError
from qwenctl.models.sampling import parse_number

Input = Annotated[str, typer.Argument(metavar="IN", help="A file of records, or - for standard input (default).")]
Output = Annotated[
    str, typer.Option("-o", "--output", metavar="OUT", help="File of answers; - is standard output (default).")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Begin anew where OUT is there already.")]
Resume = Annotated[
    Literal["auto", "force"],
    typer.Option("--resume", metavar="HOW", help="force goes on with OUT although settings have changed."),
]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Try the records again that have failed.")]
Lines = Annotated[bool, typer.Option("--lines", help="IN is text: one prompt a line.")]
Null = Annotated[bool, typer.Option("--null", help="Prompts, or names of files, end with NUL instead of a line.")]
Files = Annotated[bool, typer.Option("--files", help="IN lists files; {file} in --prompt is the text of one.")]
Csv = Annotated[bool, typer.Option("--csv", help="IN is CSV; its first line names the fields for --prompt.")]
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="Template for prompts: {name} is a field of the record."),
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="Template for system prompts.")]
KeepFields = Annotated[
    list[str] | None, typer.Option("--keep", metavar="FIELD", help="Copy a field into the answer; may be repeated.")
]
Format = Annotated[
    Literal["qwenctl", "openai"], typer.Option("--format", help="Form of answers: our own, or OpenAI's batch output.")
]
Select = Annotated[
    Literal["answer", "thinking", "tool_calls", "finish_reason", "usage", "id", "hash"] | None,
    typer.Option("--select", metavar="FIELD", help="Write this field alone, for example answer, as JSON."),
]
OrderOption = Annotated[
    Literal["input", "done"], typer.Option("--order", help="Answers in the order of the input, or as they are done.")
]


def _whole(text: str, lowest: int, highest: int) -> int:
    """A whole number in a range, or a usage error that names the option."""
    try:
        return int(parse_number(text, lowest, highest, whole=True))
    except QwenctlError as error:
        raise typer.BadParameter(error.message) from error


def _parallel(text: str) -> int:
    """A number, or 0 for auto."""
    return 0 if str(text) in ("auto", "0") else _whole(text, 1, 254)


Parallel = Annotated[
    int,
    typer.Option(
        "-np", "--parallel", parser=_parallel, metavar="N|auto",
        help="Records answered at once; auto measures what is best (16 for each endpoint).", show_default="auto",
    ),
]  # fmt: skip


def _count(meaning: str, name: str) -> Any:
    return typer.Option(name, parser=lambda text: _whole(text, 1, 2**31 - 1), metavar="N", help=meaning)


Limit = Annotated[int | None, _count("Only the first N records.", "--limit")]
Sample = Annotated[int | None, _count("Only N records, drawn by --seed.", "--sample")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count records and tokens, estimate the time; write no answers.")
]
Endpoint = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint", metavar="URL",
        help="Ask an OpenAI-compatible server instead of the engine here; may be repeated. -m is its model's name.",
    ),
]  # fmt: skip
ApiKey = Annotated[
    str, typer.Option("--api-key", metavar="KEY", help="Sent to endpoints; better in QWENCTL_BATCH_API_KEY.")
]
Timeout = Annotated[int, _count("Seconds that an endpoint may take for one answer.", "--timeout")]
Patience = Annotated[int, _count("Seconds without any answer after which endpoints are given up.", "--patience")]
Share = Annotated[
    bool, typer.Option("--share/--no-share", help="Evaluate what prompts have in common at their begin once.")
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw throughput over time, and latencies.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no summary.")]
JsonSummary = Annotated[
    bool, typer.Option("--json", help="Print the summary as JSON: to standard output, or error with -o -.")
]
