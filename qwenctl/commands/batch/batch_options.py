"""The options that only `qwenctl batch` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qwenctl.commands.options import common as options
from qwenctl.files.paths import file_in_folder, parse_output


def answers_path(output: str, source: str) -> str:
    """The file for answers: `output`, or if that is or means a folder, a file in it that is named after the input."""
    if output == "-":
        return output
    stem = Path(source).stem if source != "-" else ""
    return str(file_in_folder(parse_output(output), f"{stem}.answers.jsonl" if stem else "answers.jsonl"))


Input = Annotated[str, typer.Argument(metavar="IN", help="File of records; default: standard input (-).")]
Output = Annotated[
    str,
    typer.Option(
        "-o", "--output", metavar="OUT",
        help="File for the answers, or a folder, which is created if it ends in /; default: standard output (-).",
    ),
]  # fmt: skip
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over if OUT exists.")]
ForceResume = Annotated[bool, typer.Option("--force-resume", help="Resume although settings have changed.")]
OldResume = Annotated[
    Literal["auto", "force"], typer.Option("--resume", metavar="HOW", hidden=True, help="Old form of --force-resume.")
]
AllowPrivateUrl = Annotated[
    bool,
    typer.Option("--allow-private-url", help="As --allow-url, and from private addresses such as 192.168.0.1 too."),
]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Retry records that have failed.")]
Lines = Annotated[bool, typer.Option("--lines", help="IN is text with one prompt per line.")]
Null = Annotated[bool, typer.Option("--null", help="Prompts or file names in IN end with NUL, not with a newline.")]
Files = Annotated[bool, typer.Option("--files", help="IN lists files; {file} in --prompt stands for the text of one.")]
Csv = Annotated[bool, typer.Option("--csv", help="IN is CSV; its first line names the fields.")]
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="Prompt template; {name} stands for a field of the record."),
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt template.")]
KeepFields = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="FIELD", help="Copy this field of the record to the answer; may be repeated."),
]
Format = Annotated[
    Literal["qwenctl", "openai"],
    typer.Option("--format", help="Answer format: qwenctl's, or that of OpenAI's batch API."),
]
Select = Annotated[
    Literal["answer", "thinking", "tool_calls", "finish_reason", "usage", "id", "hash"] | None,
    typer.Option("--select", metavar="FIELD", help="Write only this field of each answer, as JSON."),
]
OrderOption = Annotated[
    Literal["input", "done"], typer.Option("--order", help="Write answers in input order, or as they are done.")
]


Parallel = Annotated[
    int,
    typer.Option(
        "-np", "--parallel", parser=options.number_parser(1, 254, {"auto": 0, "0": 0}), metavar="N|auto",
        help="Records answered at once; auto finds the best number (16 per endpoint).", show_default="auto",
    ),
]  # fmt: skip


def _count(meaning: str, name: str) -> Any:
    return typer.Option(name, parser=options.number_parser(1), metavar="N", help=meaning)


Limit = Annotated[int | None, _count("Answer only the first N records.", "--limit")]
Sample = Annotated[int | None, _count("Answer N records drawn at random by --seed.", "--sample")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count records and tokens and estimate the time; write no answers.")
]
Endpoint = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint", metavar="URL",
        help="Use an OpenAI-compatible server, where -m is its model's name; may be repeated.",
    ),
]  # fmt: skip
ApiKey = Annotated[
    str, typer.Option("--api-key", metavar="KEY", help="API key for endpoints; QWENCTL_BATCH_API_KEY is safer.")
]
Timeout = Annotated[int, _count("Time limit for an endpoint's answer, in seconds.", "--timeout")]
Patience = Annotated[int, _count("Seconds without an answer after which to give up on endpoints.", "--patience")]
Share = Annotated[
    bool,
    typer.Option(
        "--share-prefix/--no-share-prefix", "--share/--no-share", help="Evaluate a prefix that prompts share only once."
    ),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw a chart of throughput and latencies.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress and no summary.")]
JsonSummary = Annotated[
    bool, typer.Option("--json", help="Print the summary as JSON: to standard output, or to standard error with -o -.")
]
