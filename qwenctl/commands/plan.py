"""`qwenctl plan`: where a model would fit on this machine or on a described one, how fast it would be, and why."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenctl.commands.options import common as options
from qwenctl.commands.options.given import given_options, refuse_beside
from qwenctl.commands.options.load_options import with_drafts, with_load_options
from qwenctl.commands.options.shell_completion import complete_models
from qwenctl.commands.quantize.result import print_status
from qwenctl.errors import QwenctlError, command_line
from qwenctl.placement.constraints import LoadRequest
from qwenctl.terminal.streams import text_writer

if TYPE_CHECKING:
    from qwenctl.placement.plan import Plan
    from qwenctl.placement.tensor_inventory import TensorInventory

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete_models,
        help="A GGUF file, a checkpoint folder, a local model, or a repository on the Hub.",
    ),
]
TypeName = Annotated[
    str, typer.Option("--type", metavar="TYPE", help="Quantization to plan for, if MODEL is a checkpoint.")
]
GpuMemory = Annotated[
    Any,
    typer.Option(
        "--gpu-memory", metavar="SIZE,...", parser=options.parse_sizes(), show_default=False,
        help="Plan for GPUs of these sizes, such as 24G,24G, instead of this machine's.",
    ),
]  # fmt: skip
Ram = Annotated[
    int | None,
    typer.Option(
        "--ram", metavar="SIZE", parser=options.parse_size,
        help="Plan for this much RAM, such as 128G, instead of this machine's.",
    ),
]  # fmt: skip
Svg = Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Write the chart to this SVG file.")]
Vision = Annotated[
    bool | None,
    typer.Option(
        "--vision/--no-vision", show_default=False,
        help="Reserve memory for the vision encoder (mmproj); default: if a chat would find one.",
    ),
]  # fmt: skip
Mtp = Annotated[
    bool, typer.Option("--mtp/--no-mtp", help="Reserve memory for the MTP block, with which a chat makes drafts.")
]
_USUAL_TYPE, _USUAL_RAM = "Q4_K_M", 64 << 30


@with_load_options
def plan_command(
    context: typer.Context,
    model: Model,
    type_name: TypeName = "",
    gpu_memory: GpuMemory = "",
    ram: Ram = None,
    load: LoadRequest = LoadRequest(),  # noqa: B008 - frozen
    vision: Vision = None,
    mtp: Mtp = True,
    svg: Svg = None,
    json: options.Json = False,
) -> None:
    """Show where a model would fit, how fast it would be, and why.

    Nothing is loaded. The plan is the one that a chat makes with the same options: with the vision encoder beside the
    model, and the MTP block. The machine can be another one (--gpu-memory 24G,24G --ram 128G), and the model can be one
    on the Hub, of which only headers are downloaded. Options fix parts of the plan; the rest is planned around them.
    Save a plan with --json, and load it with `qwenctl chat --plan FILE`.
    """
    from qwenctl.charts.chart_file import check_chart_place, write_chart
    from qwenctl.charts.plan import render_plan as picture
    from qwenctl.placement.plan_file import to_json

    if load.plan is not None:
        refuse_beside(context, "--plan", ("type_name", "gpu_memory", "ram", "vision", "mtp"))
    if svg is not None:
        check_chart_place(svg)
    load = with_drafts(load, "auto" if mtp else "ngram", 0, 0)
    asks_mtp = mtp and "mtp" in given_options(context)
    plan = _plan(model, type_name, gpu_memory or (), ram, load, vision, asks_mtp=asks_mtp, quiet=json)
    if svg is not None:
        write_chart(svg, picture(plan).encode())
    if json:
        text_writer(sys.stdout)(to_json(plan) + "\n")
    else:
        from qwenctl.views.plan import print_placement

        print_placement(plan, sys.stdout)


def _plan(
    model: str,
    type_name: str,
    gpu_memory: tuple[int, ...],
    ram: int | None,
    load: LoadRequest,
    vision: bool | None,
    *,
    asks_mtp: bool,
    quiet: bool,
) -> Plan:
    from qwenctl.loading.checked_backend import read_usable_hardware
    from qwenctl.loading.open_model import resolve
    from qwenctl.machine.devices import check_servers
    from qwenctl.machine.profile import machine_from_sizes
    from qwenctl.placement.plan_file import read_plan
    from qwenctl.placement.planner import make_plan
    from qwenctl.placement.trial_load import plan_with_dry_load

    if load.plan is not None:
        return read_plan(load.plan)
    if (gpu_memory or ram) and load.constraints.rpc:
        raise QwenctlError("--rpc cannot be used with --gpu-memory or --ram", "leave one of them out")
    check_servers(load.constraints.rpc)
    inventory = _load_inventory(model, type_name, quiet=quiet)
    if asks_mtp and not any(map(inventory.is_mtp, inventory.tensors)):
        raise QwenctlError(f"--mtp has no effect: {inventory.name} has no MTP block", "leave it out")
    load = _reserve_vision(inventory, load, vision)
    if gpu_memory or ram:
        return make_plan(inventory, machine_from_sizes(gpu_memory, ram or _USUAL_RAM), load.constraints)
    tuned = resolve(Path(inventory.path), load).request if inventory.path else load
    plan = plan_with_dry_load(inventory, read_usable_hardware(load.constraints), tuned.constraints)
    if tuned != load:
        plan = replace(plan, reasons=("uses the faster settings found by `qwenctl tune`", *plan.reasons))
    return plan


def _reserve_vision(inventory: TensorInventory, load: LoadRequest, vision: bool | None) -> LoadRequest:
    """`load` with memory for the vision encoder, unless `vision` is False.

    It is that of the mmproj file that a chat finds beside a model file, and for a model that is not here yet, of the
    one that comes with it. Raises QwenctlError if `vision` is True and there is none.
    """
    from qwenctl.loading.model_files import reserve_mmproj, vision_settings
    from qwenctl.protocol.media import VisionSettings

    if vision is False:
        return load
    if not inventory.path:
        reserved = replace(load, constraints=replace(load.constraints, vision_bytes=inventory.vision_bytes))
    else:
        found = vision_settings(Path(inventory.path), None, VisionSettings())
        # Of several, a chat takes none until it is told which; --vision means the largest.
        towers = sorted(found.mmproj_choices if vision else (), key=lambda tower: Path(tower).stat().st_size)
        reserved = reserve_mmproj(load, found.mmproj or "".join(towers[-1:]))
    if vision and not reserved.constraints.vision_bytes:
        raise QwenctlError(
            f"no mmproj file found for {inventory.name}", "leave out --vision, or put the mmproj file next to the model"
        )
    return reserved


def _load_inventory(model: str, type_name: str, *, quiet: bool) -> TensorInventory:
    """The tensors of the model: a path, a local model or a repository on the Hub. Raises QwenctlError."""
    from quantize.plan import QuantizeOptions
    from qwenctl.hub.local.resolve_model import expand_path
    from qwenctl.models.gguf_check import check_model_file
    from qwenctl.placement.tensor_inventory import from_checkpoint, from_gguf

    path = expand_path(model)
    if not path.exists():
        found = _local_path(model, type_name)
        if found is None:
            return _fetch_inventory(model, type_name, quiet=quiet)
        path = found
    if path.is_dir():
        return from_checkpoint(path, QuantizeOptions(type_name or _USUAL_TYPE))
    if type_name:
        hint = command_line("plan", path)
        raise QwenctlError(f"{path.name} is quantized already: --type is for checkpoints", hint)
    # As `chat` does, so that no plan is shown for a file that cannot be loaded.
    print_status(*(f"note: {line}" for line in check_model_file(path)), quiet=quiet)
    return from_gguf(path)


def _local_path(model: str, type_name: str) -> Path | None:
    """The path that `model` means, itself or as a local model's name; None if it can only be on the Hub."""
    from qwenctl.hub.local.installed import CHECKPOINT, find_installed_models
    from qwenctl.hub.local.resolve_model import expand_path, find_matches
    from qwenctl.hub.repository.model_name import is_link

    if not is_link(model) and (model.endswith(".gguf") or model.startswith(("/", ".", "~"))):
        return expand_path(model)  # it can only be a path
    found = [one for one in find_matches(model, find_installed_models()) if not one.missing_parts]
    fitting = [one for one in found if (one.quant == CHECKPOINT) == bool(type_name)] or ([] if type_name else found)
    return fitting[-1].path if fitting else None


def _fetch_inventory(model: str, type_name: str, *, quiet: bool) -> TensorInventory:
    """The tensors of a model on the Hub, from file headers only."""
    from quantize.plan import QuantizeOptions
    from qwenctl.commands.quantize.remote import fetch_listing
    from qwenctl.hub.pull import PullOptions
    from qwenctl.hub.repository.model_name import parse_name
    from qwenctl.hub.repository.quantizations import find_vision
    from qwenctl.hub.select.target import PullRequest, resolve_target, select_quant
    from qwenctl.hub.streaming.gguf_headers import fetch_gguf_headers
    from qwenctl.hub.streaming.header_only import fetch_headers_only
    from qwenctl.placement.tensor_inventory import from_checkpoint, from_gguf

    def notify(line: str) -> None:
        print_status(line, quiet=quiet)

    request, pull, name = PullRequest(type_name, vision=False), PullOptions(), parse_name(model)
    target = resolve_target(name, request, lambda repository: fetch_listing(repository, name.revision, pull, notify))
    if target.needs_choice:
        target = select_quant(target, _USUAL_TYPE, request)
    with tempfile.TemporaryDirectory(prefix="qwenctl-") as folder:
        if target.recipe:
            skeleton = fetch_headers_only(target.listing, Path(folder), pull.download_options, notify, lambda _: None)
            found = from_checkpoint(skeleton.folder, QuantizeOptions(target.recipe))
            label = target.recipe
        else:
            paths = fetch_gguf_headers(target.listing, target.files, Path(folder), pull.download_options, notify)
            tower = find_vision(target.listing.files)
            found, label = replace(from_gguf(paths[0]), vision_bytes=tower.size if tower else 0), target.label
    return replace(found, name=f"{target.listing.repository}:{label}", path="")
