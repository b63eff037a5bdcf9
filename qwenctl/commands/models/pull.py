"""`qwenctl pull`: downloads a model from the Hub, ready for `qwenctl chat`.

Options come in; `hub` does the work, and its results are shown.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantize.recipe.recipes import find_recipe
from qwenctl import __version__
from qwenctl.commands.models.pull_flow import (
    RepositorySurvey,
    check_quantizing,
    pull_locked,
    pull_target,
    show_local,
    survey_repository,
)
from qwenctl.commands.options import common as options
from qwenctl.commands.options import hub as hub_options
from qwenctl.commands.options.common import ask
from qwenctl.commands.options.given import given_options, refuse_beside, refuse_empty, refuse_ineffective
from qwenctl.commands.options.hub import one_revision
from qwenctl.commands.options.shell_completion import complete_published, complete_types
from qwenctl.commands.quantize.remote import SPOOL_BYTES, QuantizeJob, fetch_listing, quantize_remote
from qwenctl.commands.quantize.result import available_cpus, print_status
from qwenctl.errors import ExitCode, QwenctlError, command_line, quote
from qwenctl.files.paths import FolderPath, missing_folder, parse_output
from qwenctl.terminal.streams import is_terminal, warn

if TYPE_CHECKING:
    from qwenctl.hub.pull import PullOptions
    from qwenctl.hub.repository.model_name import ModelName
    from qwenctl.hub.select.target import PullRequest, ResolvedTarget

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        autocompletion=complete_published,
        help="Repository OWNER/NAME[:QUANT], or a short name such as qwen3.5-35b-a3b[:QUANT]. Without QUANT, the best "
        "quantization that fits this machine is chosen.",
    ),
]
Quantize = Annotated[
    str,
    typer.Option(
        "--quantize", metavar="TYPE", autocompletion=complete_types,
        help="Download a checkpoint and quantize it on the fly, without storing all of it.",
    ),
]  # fmt: skip
Source = Annotated[bool, typer.Option("--source", help="Download the original checkpoint.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        parser=parse_output,
        help="With --quantize: output file, or a folder, which is created if it ends in /.",
    ),
]
Vision = Annotated[
    bool, typer.Option("--vision/--no-vision", help="Include the vision encoder (mmproj), if there is one.")
]
Locked = Annotated[
    Path | None,
    typer.Option("--locked", metavar="FILE", help="Pull exactly what this qwenctl.lock.json lists."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be downloaded, without downloading it.")]
Repair = Annotated[bool, typer.Option("--repair", help="Verify local files and download damaged ones again.")]


# What a lock file decides, what is not done without the network, and what limits the network.
_LOCKED = ("quantize", "source", "vision", "revision")
_OF_PULLS, _OF_THE_NETWORK = ("output", "spool", "vision", "repair"), ("wait", "patience", "connections")


def pull_command(
    context: typer.Context,
    name: Name = "",
    hf_name: hub_options.HfName = "",
    revision: hub_options.Revision = "",
    quantize: Quantize = "",
    source: Source = False,
    output: Output = None,
    spool: hub_options.Spool = None,
    vision: Vision = True,
    locked: Locked = None,
    to: hub_options.To = None,
    repair: Repair = False,
    dry_run: DryRun = False,
    yes: hub_options.Yes = False,
    offline: hub_options.Offline = False,
    wait: hub_options.Wait = None,
    patience: hub_options.Patience = None,
    connections: hub_options.Connections = 8,
    json: options.Json = False,
    quiet: hub_options.Quiet = False,
) -> None:
    """Download a model from the Hugging Face Hub.

    Files are stored in the Hugging Face cache, where other tools find them too, and every file is verified. Run the
    same command again to resume a download that was stopped. If standard output is not a terminal, the path of the file
    to load is printed there.
    """
    from qwenctl.hub.download.downloader import DownloadOptions
    from qwenctl.hub.local.hf_cache import default_cache_root, is_offline
    from qwenctl.hub.pull import PullOptions
    from qwenctl.hub.repository.model_name import parse_name
    from qwenctl.hub.select.target import PullRequest

    given = _check_given(context, has_lock=locked is not None, offline=offline)
    settings = DownloadOptions(connections) if patience is None else DownloadOptions(connections, patience)
    pull = PullOptions(settings, wait, repair)
    job = QuantizeJob(
        output=_output(output, to, given),
        threads=available_cpus(),
        spool_bytes=spool or SPOOL_BYTES,
        overwrite=False,
        dry_run=dry_run,
        json=json,
        quiet=quiet,
        yes=yes,
    )
    offline = offline or is_offline()
    if locked:
        if name or hf_name:
            hint = command_line("pull", "--locked", locked)
            raise QwenctlError("--locked and a model name cannot be used together", hint)
        pull_locked(locked, to, job, pull, given, offline=offline)
        return
    model_name, request = parse_name(_one_name(name, hf_name)), PullRequest(quantize, source, vision)
    _check_request(model_name, request)
    if offline:
        wanted = replace(model_name, quant=model_name.quant or request.label)
        show_local(replace(wanted, revision=one_revision(revision, model_name.revision)), to, job)
        return
    target = _target(model_name, request, revision, to or default_cache_root(), job, pull)
    if target is not None and _is_loadable_or_wanted(target, job):
        _check_target(target, given)
        _pull_or_quantize(target, to, job, pull, vision=vision)


def _check_given(context: typer.Context, *, has_lock: bool, offline: bool) -> Mapping[str, str]:
    """The options on the command line. Raises QwenctlError if one of them says nothing or has no effect."""
    from qwenctl.hub.local.hf_cache import is_offline

    refuse_empty(context)
    given = given_options(context)
    if has_lock:
        refuse_beside(context, "--locked", _LOCKED)
    if "output" in given:
        refuse_beside(context, "--output", ("to",))
    not_done = set(_OF_PULLS) - ({"output"} if has_lock else set())
    if offline:
        refuse_beside(context, "--offline", {*not_done, *_OF_THE_NETWORK})
    elif is_offline():  # limits of a network that is not used are kept, but what was asked for is not done
        refuse_ineffective(given, not_done, "without the network", "unset HF_HUB_OFFLINE, or leave it out")
    return given


def _output(output: Path | None, to: Path | None, given: Mapping[str, str]) -> Path | None:
    """Where a file is written that is quantized: to -o, or --to; what was typed wins over settings."""
    folder = FolderPath(to) if to is not None and to.suffix != ".gguf" else to
    return folder or output if "to" in given else output or folder


def _check_target(target: ResolvedTarget, given: Mapping[str, str]) -> None:
    """Raise QwenctlError if an option was given that means nothing for what is pulled."""
    from qwenctl.hub.local.installed import CHECKPOINT

    check_quantizing(given, target.label or target.recipe, quantizes=bool(target.recipe))
    if target.label == CHECKPOINT:
        refuse_ineffective(given, ("vision",), "on a checkpoint, which is pulled whole")


def _one_name(name: str, hf_name: str) -> str:
    if name and hf_name:
        raise QwenctlError(f"{name} and -hf {hf_name} are two models", command_line("pull", name))
    if not name and not hf_name:
        raise QwenctlError("no model to pull", "qwenctl pull qwen3.5-35b-a3b, or OWNER/NAME[:QUANT]")
    return name or hf_name


def _check_request(model_name: ModelName, request: PullRequest) -> None:
    """Raises QwenctlError if the command line names several quantizations, and BadOption for one that is none."""
    from qwenctl.hub.repository.model_name import quant_key

    by_option = {
        f"--quantize {quote(request.recipe)}": request.recipe,
        "--source": request.source and request.label,
        model_name.quant: model_name.quant,
    }
    quants = {option: quant_key(value) for option, value in by_option.items() if value}
    if len(set(quants.values())) > 1:
        hint = f"{command_line('pull', model_name.base)} {next(iter(quants))}"
        raise QwenctlError(f"{' and '.join(quants)} cannot be used together", hint)
    if request.recipe:
        find_recipe(request.recipe, "--quantize")


def _target(
    model_name: ModelName, request: PullRequest, revision: str, folder: Path, job: QuantizeJob, pull: PullOptions
) -> ResolvedTarget | None:
    """What to pull; None if the user at the terminal declines."""
    from qwenctl.hub.pull import check_writable
    from qwenctl.hub.select.target import resolve_target, select_quant
    from qwenctl.views.pull import pull_progress

    with pull_progress(sys.stderr, quiet=job.quiet or job.json) as (shown, _):
        target = resolve_target(
            model_name,
            request,
            lambda name: fetch_listing(name, one_revision(revision, model_name.revision), pull, shown.notify),
        )
        if not target.needs_choice:
            return target
        found = survey_repository(target.listing, pull, job, folder, shown.notify)
    try:
        label = _choose_quant(target, found, job)
    except QwenctlError as error:
        if error.code == ExitCode.IO:  # no disk space: perhaps because there cannot be such a folder
            check_writable(folder)
        raise
    return select_quant(target, label, request) if label else None


def _is_loadable_or_wanted(target: ResolvedTarget, job: QuantizeJob) -> bool:
    """Whether llama.cpp can load the target, or the user wants it nevertheless. Raises QwenctlError without --yes."""
    from qwenctl.hub.select.fit import PullCandidate

    if target.recipe or not PullCandidate(target.label, 0, 0).needs_llama_fork:
        return True
    repository = target.listing.repository
    message = f"llama.cpp cannot load {target.label} of {repository}, a type of its fork ik_llama.cpp"
    if job.yes or job.dry_run:
        warn(message)
        return True
    answer = None if job.quiet or job.json else ask(f"{message}. Pull it anyway? [y/N] ")
    if answer is None:
        hint = f"another quantization (`{command_line('ls', repository)}`), or `--yes` to pull it anyway"
        raise QwenctlError(message, hint)
    return answer.lower() in ("y", "yes")


def _pull_or_quantize(
    target: ResolvedTarget, to: Path | None, job: QuantizeJob, pull: PullOptions, *, vision: bool
) -> None:
    """Download the target, or quantize it while it downloads. Raises QwenctlError."""
    if target.recipe:
        from quantize.plan import QuantizeOptions

        wanted = QuantizeOptions(target.recipe, vision=vision, tool_version=__version__)
        with missing_folder(job.output):
            quantize_remote(target.listing, wanted, job, pull)
        return
    pull_target(target, to, job, pull)


def _choose_quant(target: ResolvedTarget, found: RepositorySurvey, job: QuantizeJob) -> str:
    """The quantization to pull: the best that fits, or the one the user types; "" if the user declines."""
    from qwenctl.hub.select.fit import best_fit
    from qwenctl.views.models import print_offers

    asks = not (job.yes or job.dry_run or job.quiet or job.json) and is_terminal(sys.stdin) and is_terminal(sys.stderr)
    if asks:
        print_offers(found.offers, found.fits, sys.stderr)
    best, reason = best_fit(target.listing.repository, found.fits, found.offers.context, found.machine)
    print_status(f"chosen: {reason}", quiet=job.quiet or job.json)
    answer = (ask("pull it? [Y/n, or another quantization] ") if asks else None) or "y"
    if answer.lower() in ("n", "no"):
        return ""
    return best.candidate.label if answer.lower() in ("y", "yes") else answer
