"""`qwenctl quantize`: turns a checkpoint, in a folder or on the Hub, into GGUF files.

Options come in; the `quantize` library does the work, and its results are shown.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantize.recipe.recipes import RECIPES
from qwenctl import __version__
from qwenctl.commands.options import common as options
from qwenctl.commands.options import hub as hub_options
from qwenctl.commands.options.given import given_options, refuse_beside, refuse_empty, refuse_ineffective
from qwenctl.commands.options.hub import one_revision
from qwenctl.commands.options.shell_completion import complete_types
from qwenctl.commands.quantize.remote import SPOOL_BYTES, QuantizeJob, fetch_listing, quantize_remote
from qwenctl.commands.quantize.result import (
    available_cpus,
    check_parts,
    handle_sigterm,
    print_status,
    show_plan,
    show_result,
)
from qwenctl.errors import QwenctlError
from qwenctl.files.paths import missing_folder, parse_output

if TYPE_CHECKING:
    from quantize.convert import ConversionResult
    from quantize.plan import ConversionPlan, QuantizeOptions


Source = Annotated[
    Path,
    typer.Argument(metavar="SRC", help="Checkpoint folder (config.json and safetensors), or a repository on the Hub."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="OUT", parser=parse_output,
        help="Output file, or a folder, which is created if it ends in /; default: NAME-TYPE.gguf here.",
    ),
]  # fmt: skip
Type = Annotated[
    str,
    typer.Option("--type", metavar="TYPE", autocompletion=complete_types, help=f"Quantization: {', '.join(RECIPES)}."),
]
TensorType = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor-type", metavar="REGEX=TYPE",
        help="Data type of matching tensors, such as 'ffn_down_exps=q6_k'; may be repeated, the last match wins.",
    ),
]  # fmt: skip
Imatrix = Annotated[
    Path | None,
    typer.Option(
        "--imatrix", metavar="FILE", help="Importance matrix made by llama-imatrix: GGUF or the old imatrix.dat."
    ),
]
Mtp = Annotated[bool, typer.Option("--mtp/--no-mtp", help="Include the multi-token-prediction (MTP) block.")]
Vision = Annotated[bool, typer.Option("--vision/--no-vision", help="Write the vision encoder to an mmproj file.")]
VisionType = Annotated[
    str, typer.Option("--vision-type", metavar="TYPE", help="Data type of the vision encoder: F16, BF16 or F32.")
]
SplitSize = Annotated[
    int | None,
    typer.Option(
        "--split-max-size",
        metavar="SIZE",
        parser=options.parse_size,
        help="Split the output into files of at most this size, such as 48G.",
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        "-t", "--threads", parser=options.number_parser(0, 1024), metavar="N",
        help="Worker threads; 0: one per processor.",
    ),
]  # fmt: skip
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be written, by tensor class, without writing it.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files once the new ones are complete.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress and no summary.")]
_PARTS = ("--mtp", "--vision", "--vision-type")  # options that ask for a part of the model, which must be there


def quantize_command(
    context: typer.Context,
    source: Source,
    output: Output = None,
    type_name: Type = "Q4_K_M",
    tensor_type: TensorType = None,
    imatrix: Imatrix = None,
    mtp: Mtp = True,
    vision: Vision = True,
    vision_type: VisionType = "",
    split_max_size: SplitSize = None,
    threads: Threads = 0,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    spool: hub_options.Spool = None,
    revision: hub_options.Revision = "",
    json: options.Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a quantized GGUF file of a Qwen3.5 checkpoint.

    SRC can be a repository on the Hub, such as Qwen/Qwen3.5-35B-A3B: it is quantized while it downloads, and is never
    stored as a whole.

    Run the same command again to resume a run that was stopped. Progress goes to standard error. If standard output is
    not a terminal, it gets the paths of the files that were written, one per line, the one to load first.
    """
    from quantize.plan import QuantizeOptions

    wanted = QuantizeOptions(
        type_name,
        tuple(tensor_type or ()),
        imatrix,
        mtp=mtp,
        vision=vision,
        vision_type=vision_type,
        split_bytes=split_max_size or 0,
        tool_version=__version__,
    )
    given = _check_given(context, vision=vision)
    job = QuantizeJob(
        output=output,
        threads=threads or available_cpus(),
        spool_bytes=spool or SPOOL_BYTES,
        overwrite=overwrite,
        dry_run=dry_run,
        json=json,
        quiet=quiet,
        asked_parts=tuple(option for option in given.values() if option in _PARTS),
    )
    repository, named_revision = _repository(source)
    with missing_folder(output):
        if repository:
            _quantize_repository(repository, one_revision(revision, named_revision), wanted, job)
        else:
            if source.is_dir():
                refuse_ineffective(given, ("spool", "revision"), f"for a folder: {source} is not downloaded")
            _quantize_folder(source, wanted, job)


def _check_given(context: typer.Context, *, vision: bool) -> Mapping[str, str]:
    """The options on the command line. Raises QwenctlError if one of them says nothing or has no effect."""
    refuse_empty(context)
    if not vision:
        refuse_beside(context, "--no-vision", ("vision_type",))
    return given_options(context)


def _quantize_folder(source: Path, wanted: QuantizeOptions, job: QuantizeJob) -> None:
    plan = _make_plan(source, job.output, wanted)
    check_parts(plan, job.asked_parts)
    if job.dry_run:
        show_plan(plan, job.threads, as_json=job.json)
    else:
        result = (not job.overwrite and _find_made(plan, wanted, quiet=job.quiet)) or _convert(plan, wanted, job)
        show_result(plan, result, as_json=job.json, quiet=job.quiet)


def _find_made(plan: ConversionPlan, wanted: QuantizeOptions, *, quiet: bool) -> ConversionResult | None:
    """The result of an earlier run that made all files of `plan`, if they are as it left them; it is recorded again."""
    from quantize.convert import made_result
    from qwenctl.hub.local.made_here import find_made_hashes, record_made

    result = made_result(
        plan,
        find_made_hashes(plan),
        lambda: print_status(f"checking {plan.files[0].path}, which is here already", quiet=quiet),
    )
    if result is not None:
        record_made(plan, wanted, result.hashes)
    return result


def _repository(source: Path) -> tuple[str, str]:
    """The repository and the revision on the Hub that `source` names; both "" if it is a local path or no name."""
    from qwenctl.hub.repository.model_name import is_link, parse_name

    if source.exists():
        return "", ""
    try:
        name = parse_name(str(source))
    except QwenctlError:
        if is_link(str(source)):
            raise
        return "", ""
    return name.repository or (name.family.source if name.family else ""), name.revision


def _quantize_repository(name: str, revision: str, wanted: QuantizeOptions, job: QuantizeJob) -> None:
    from qwenctl.hub.pull import PullOptions

    pull = PullOptions()
    quantize_remote(fetch_listing(name, revision, pull, lambda _: None), wanted, job, pull)


def _make_plan(source: Path, output: Path | None, wanted: QuantizeOptions) -> ConversionPlan:
    from quantize.output.partial_output import check_paths
    from quantize.plan import make_plan

    plan = make_plan(source, output, wanted)
    check_paths(plan)
    return plan


def _convert(plan: ConversionPlan, wanted: QuantizeOptions, job: QuantizeJob) -> ConversionResult:
    from quantize.convert import convert
    from qwenctl.hub.local.made_here import record_made
    from qwenctl.views.quantization import conversion_progress, start_line

    with handle_sigterm(), conversion_progress(start_line(plan, job.threads), sys.stderr, quiet=job.quiet) as report:
        return convert(
            plan,
            job.threads,
            report,
            overwrite=job.overwrite,
            on_renamed=lambda hashes: record_made(plan, wanted, hashes),
        )
