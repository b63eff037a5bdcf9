"""The three ways of `qwenctl pull` to provide a model: from the Hub, as a lock file says, or from local files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantize.formatting import format_bytes, format_duration
from qwenctl.commands.options.given import refuse_ineffective
from qwenctl.commands.quantize.remote import QuantizeJob, fetch_listing, quantize_remote
from qwenctl.commands.quantize.result import print_json, print_status
from qwenctl.errors import ExitCode, QwenctlError, command_line
from qwenctl.files.paths import missing_folder
from qwenctl.terminal.streams import is_terminal, text_writer

if TYPE_CHECKING:
    from qwenctl.hub.local.lock_file import LockedModel
    from qwenctl.hub.pull import PullOptions, PullPlan
    from qwenctl.hub.repository.listing import Listing, RemoteFile
    from qwenctl.hub.repository.model_name import ModelName
    from qwenctl.hub.select.available_quants import AvailableQuants
    from qwenctl.hub.select.fit import Fit
    from qwenctl.hub.select.target import ResolvedTarget
    from qwenctl.machine import MachineMemory


@dataclass(frozen=True)
class RepositorySurvey:
    """The quantizations in a repository, and where each would fit on this machine."""

    offers: AvailableQuants
    machine: MachineMemory
    fits: tuple[Fit, ...]


def survey_repository(
    listing: Listing, pull: PullOptions, job: QuantizeJob, folder: Path, notify: Callable[[str], None]
) -> RepositorySurvey:
    """Inspect the repository, and this machine with the disk of `folder`. Raises QwenctlError."""
    from qwenctl.hub.select.available_quants import find_available_quants
    from qwenctl.hub.select.fit import fit_candidate
    from qwenctl.machine import free_disk, read_machine_memory

    offers, machine, free = (
        find_available_quants(listing, pull.download_options, job.spool_bytes, notify),
        read_machine_memory(),
        free_disk(folder),
    )
    return RepositorySurvey(
        offers, machine, tuple(fit_candidate(one, offers.context, machine, free) for one in offers.candidates)
    )


def pull_target(target: ResolvedTarget, to: Path | None, job: QuantizeJob, pull: PullOptions) -> None:
    """Download the files of a target, and print the next command."""
    plan = _pull(target.listing, target.label, target.files, to, job, pull)
    if plan is not None:
        _show(plan, job)


def check_quantizing(given: Mapping[str, str], label: str, *, quantizes: bool) -> None:
    """Raise QwenctlError if one of the options `given` is only for models that are quantized here, or only for others.

    `label` names what is pulled.
    """
    if quantizes:
        refuse_ineffective(given, ("repair",), "on a model that is quantized here", f"`{command_line('verify')}`")
        return
    hints = {"output": ("-o", "`--to DIR` pulls into a folder"), "spool": ("--spool", "leave it out")}
    for name, (option, hint) in hints.items():
        if name in given:
            raise QwenctlError(f"{option} is only for --quantize, and {label} needs no quantizing", hint)


def pull_locked(
    path: Path, to: Path | None, job: QuantizeJob, pull: PullOptions, given: Mapping[str, str], *, offline: bool
) -> None:
    """Download the models that a lock file lists; with `offline`, only verify local ones.

    Raises QwenctlError, also if one of the options `given` is for none of these models.
    """
    from qwenctl.hub.local.lock_file import check_locked, find_locked_files, read_lock

    models = read_lock(path)
    for model in models:
        if model.is_local and not offline:
            raise QwenctlError(
                f"{model.first_output} was quantized from a folder ({model.title}); no repository has it",
                "`--offline` checks that it is here; `qwenctl quantize FOLDER` makes it",
                ExitCode.NO_INPUT,
            )
    if models and len({bool(model.recipe) for model in models}) == 1:
        check_quantizing(given, models[0].quant, quantizes=bool(models[0].recipe))
    for model in models:
        if offline:
            _show_locked(model, to, job)
            continue
        listing = fetch_listing(
            model.repository, model.commit, pull, lambda line: print_status(line, quiet=job.quiet or job.json)
        )
        files = find_locked_files(model, listing)
        if model.recipe:
            with missing_folder(job.output):
                _make_locked(model, listing, job, pull)
        elif plan := _pull(listing, model.quant, files, to, job, pull):
            check_locked(model, [plan.cache.blob_path(file) for file in files])
            _show(plan, job)


def _show_locked(model: LockedModel, to: Path | None, job: QuantizeJob) -> None:
    """Verify the local files of a locked model, and print their path. No network is used."""
    from qwenctl.hub.local.hf_cache import RepoCache, default_cache_root
    from qwenctl.hub.local.installed import CHECKPOINT
    from qwenctl.hub.local.lock_file import verify_local

    made_in = job.output or Path()
    cached = RepoCache(to or default_cache_root(), model.repository).snapshot_folder(model.commit)
    path = verify_local(model, (made_in if made_in.is_dir() else made_in.parent) if model.recipe else cached)
    path = path.parent if model.quant == CHECKPOINT else path
    if job.json:
        print_json({"repository": model.repository, "commit": model.commit, "quant": model.quant, "path": str(path)})
    else:
        text_writer(sys.stdout)(f"{path}\n")


def _make_locked(model: LockedModel, listing: Listing, job: QuantizeJob, pull: PullOptions) -> None:
    """Quantize the checkpoint again. Raises QwenctlError if the result is not what the lock file has."""
    from qwenctl.hub.local.recipe_args import recipe_from_args

    output = job.output
    if output is None or output.is_dir():
        output = (output or Path()) / model.outputs[0].path
    made = quantize_remote(listing, recipe_from_args(model.recipe), replace(job, output=output), pull)
    for was, now in zip(model.outputs, made, strict=False):
        if was.sha256 != now.sha256:
            raise QwenctlError(
                f"{now.path} has the sha256 {now.sha256[:12]}.., but the lock file has {was.sha256[:12]}..",
                f"it was made with qwenctl {model.version}: use that version",
                ExitCode.BAD_DATA,
            )


def show_local(model_name: ModelName, to: Path | None, job: QuantizeJob) -> None:
    """Print the path of a local model, which must be in the folder `to`, if that is given. No network is used.

    Raises QwenctlError if there is none.
    """
    from qwenctl.hub.local.installed import find_installed_models
    from qwenctl.hub.local.resolve_model import filter_by_name, wrong_revision_error
    from qwenctl.views.models import model_fields

    models = find_installed_models((to,) if to else ())
    if to is not None:  # what was quantized here is listed wherever it lies
        models = [model for model in models if model.cache or model.path.absolute().parent == to.absolute()]
    found = [model for model in filter_by_name(model_name, models) if not model.missing_parts]
    if not found and (error := wrong_revision_error(model_name, models)) is not None:
        raise error
    if not found:
        names = ", ".join(dict.fromkeys(model.name for model in models))
        hint = f"available: {names}" if names else "pull it without --offline"
        raise QwenctlError(f"{model_name.text} is not on this machine", hint, ExitCode.NO_INPUT)
    if job.json:
        print_json(model_fields(found[-1]))
    else:
        text_writer(sys.stdout)(f"{found[-1].path}\n")


def _pull(
    listing: Listing, label: str, files: Sequence[RemoteFile], to: Path | None, job: QuantizeJob, pull: PullOptions
) -> PullPlan | None:
    """Download the files; with `job.dry_run`, only show the plan and return None."""
    from qwenctl.hub.local.hf_cache import RepoCache, default_cache_root
    from qwenctl.hub.local.registry import register_root
    from qwenctl.hub.pull import plan_pull, pull_files
    from qwenctl.views.models import plan_fields, print_plan
    from qwenctl.views.pull import pull_progress

    cache = RepoCache(to or default_cache_root(), listing.repository)
    if job.dry_run:
        plan = plan_pull(listing, label, files, cache, verify=pull.repair)
        print_json(plan_fields(plan)) if job.json else print_plan(plan, sys.stdout)
        return None
    start = time.monotonic()
    with pull_progress(sys.stderr, quiet=job.quiet or job.json) as (shown, _):
        plan = pull_files(listing, label, files, cache, pull, shown)
    if to:
        register_root(to)
    took = f"{format_bytes(plan.needed_bytes)} of it downloaded in {format_duration(time.monotonic() - start)}"
    print_status(
        f"{label}: {format_bytes(plan.n_bytes)}, {took if plan.missing else 'already downloaded'}",
        quiet=job.quiet or job.json,
    )
    return plan


def _show(plan: PullPlan, job: QuantizeJob) -> None:
    """Print the path of a model, and the next command."""
    from qwenctl.hub.local.installed import CHECKPOINT
    from qwenctl.views.models import plan_fields

    name = f"{plan.listing.repository}:{plan.label}"
    is_source = plan.label == CHECKPOINT
    path = plan.first_path.parent if is_source else plan.first_path
    command = command_line("quantize", path) if is_source else command_line("chat", "-m", _name_to_load(name, path))
    print_status(f"next: {command}", quiet=job.quiet or job.json)
    if job.json:
        print_json({**plan_fields(plan), "path": str(path), "name": name})
    elif job.quiet or not is_terminal(sys.stdout):
        text_writer(sys.stdout)(f"{path}\n")


def _name_to_load(name: str, path: Path) -> str | Path:
    """The model's `name`, or its `path` if that name finds other models as well, or none."""
    from qwenctl.hub.local.installed import find_installed_models
    from qwenctl.hub.local.resolve_model import find_matches

    found = [model.path.absolute() for model in find_matches(name, find_installed_models())]
    return name if found == [path.absolute()] else path
