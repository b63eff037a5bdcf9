"""`qwenctl ls`: lists local models, or the quantizations in a repository on the Hub."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from qwenctl.commands.models.pull_flow import survey_repository
from qwenctl.commands.options import common as options
from qwenctl.commands.options import hub as hub_options
from qwenctl.commands.options.given import refuse_empty, refuse_without
from qwenctl.commands.options.hub import one_revision
from qwenctl.commands.options.shell_completion import complete_published
from qwenctl.commands.quantize.remote import SPOOL_BYTES, QuantizeJob, fetch_listing
from qwenctl.commands.quantize.result import available_cpus, print_status
from qwenctl.errors import QwenctlError, command_line
from qwenctl.terminal.streams import text_writer

Remote = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        autocompletion=complete_published,
        help="Repository OWNER/NAME, or a short name; default: local models.",
    ),
]


def ls_command(
    context: typer.Context,
    name: Remote = "",
    hf_name: hub_options.HfName = "",
    revision: hub_options.Revision = "",
    json: options.Json = False,
) -> None:
    """List local models, or what a repository on the Hub offers.

    With NAME, each quantization is listed with its size and where it would fit on this machine.
    """
    if name and hf_name:
        raise QwenctlError(f"{name} and -hf {hf_name} are two models", command_line("ls", name))
    refuse_empty(context)
    if name or hf_name:
        _list_remote(name or hf_name, revision, as_json=json)
    else:
        refuse_without(context, "NAME", ("revision",))
        _list_local(as_json=json)


def _list_local(*, as_json: bool) -> None:
    from qwenctl.hub.local.installed import find_installed_models
    from qwenctl.views.models import model_fields, print_models

    models = find_installed_models()
    if as_json:
        _print_list([model_fields(model) for model in models])
    elif models:
        print_models(models, sys.stdout)
    else:
        print_status("no local models", "  hint: qwenctl pull qwen3.5-35b-a3b", quiet=False)


def _list_remote(text: str, revision: str, *, as_json: bool) -> None:
    from qwenctl.hub.local.hf_cache import default_cache_root
    from qwenctl.hub.pull import PullOptions
    from qwenctl.hub.repository.model_name import parse_name
    from qwenctl.hub.select.target import PullRequest, resolve_target
    from qwenctl.views.models import offer_fields, print_offers

    model_name, pull = replace(parse_name(text), quant="", file=""), PullOptions()  # all of the repository is listed
    job = QuantizeJob(None, available_cpus(), SPOOL_BYTES, overwrite=False, dry_run=True, json=as_json, quiet=as_json)

    def notify(line: str) -> None:
        print_status(line, quiet=as_json)

    target = resolve_target(
        model_name,
        PullRequest(),
        lambda repository: fetch_listing(repository, one_revision(revision, model_name.revision), pull, notify),
    )
    found = survey_repository(target.listing, pull, job, Path(default_cache_root()), notify)
    if as_json:
        _print_list(offer_fields(found.offers, found.fits))
    else:
        print_status(f"{target.listing.repository}@{target.listing.commit[:12]}", quiet=False)
        print_offers(found.offers, found.fits, sys.stdout)
        others = model_name.family.repositories if model_name.family else ()
        more = [name for name in others if name.lower() != target.listing.repository.lower()]
        print_status(*([f"see also: {', '.join(more)}"] if more else []), quiet=False)


def _print_list(rows: list[dict[str, object]]) -> None:
    text_writer(sys.stdout)(json_format.dumps(rows, ensure_ascii=False) + "\n")
