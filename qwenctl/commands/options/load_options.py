"""The options for loading a model and placing it on devices, for every command that loads one.

A command takes one argument `load: LoadRequest`; `with_load_options` replaces it with the options. Option values come
in, a `LoadRequest` goes out.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qwenctl.commands.options import common as options
from qwenctl.commands.options.given import given_options
from qwenctl.errors import QwenctlError
from qwenctl.placement.constraints import ALL_EXPERTS, LoadRequest, PlacementConstraints, parse_override

_MIB = 1 << 20


def _option(meaning: str, *names: str, metavar: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=meaning, **more)


CpuExperts = Annotated[
    int | None,
    _option(
        "Keep the routed experts of the first N layers in RAM, and the others on GPUs.",
        "-ncmoe", "--n-cpu-moe", metavar="N", min=0, show_default=False,
    ),
]  # fmt: skip
CpuMoe = Annotated[bool, typer.Option("-cmoe", "--cpu-moe", help="Keep all routed experts in RAM.")]
Overrides = Annotated[
    list[str] | None,
    _option(
        "Put tensors whose names match on this device, or on CPU; may be repeated.",
        "-ot", "--override-tensor", metavar="REGEX=DEVICE",
    ),
]  # fmt: skip
FitTarget = Annotated[
    Any,
    _option(
        "Memory to leave free on each GPU, in MiB or as a size such as 2G.",
        "--fit-target", metavar="SIZE,...", parser=options.parse_sizes(bare_unit=_MIB, lowest=0), show_default=False,
    ),
]  # fmt: skip
Split = Annotated[
    str, _option("Split the layers across GPUs in these proportions.", "-ts", "--tensor-split", metavar="N,...")
]
Devices = Annotated[
    str, _option("GPUs to use, as named by `qwenctl doctor`; none: no GPU.", "-dev", "--device", metavar="NAME,...")
]
Rpc = Annotated[
    list[str] | None,
    _option("Machine that runs `qwenctl worker`; may be repeated.", "--rpc", metavar="HOST:PORT"),
]
PlanFile = Annotated[
    Path | None, _option("Load as planned in this file, written by `qwenctl plan --json`.", "--plan", metavar="FILE")
]
Paging = Annotated[bool, typer.Option("--paging", help="Read what does not fit in RAM from disk, for every token.")]


def _load_request(
    ctx_size: options.ContextSize = 0,
    threads: options.Threads = 0,
    batch_size: options.BatchSize = None,
    ubatch_size: options.MicroBatchSize = None,
    gpu_layers: options.GpuLayers = -1,
    n_cpu_moe: CpuExperts = None,
    cpu_moe: CpuMoe = False,
    override_tensor: Overrides = None,
    fit_target: FitTarget = "",
    tensor_split: Split = "",
    device: Devices = "",
    rpc: Rpc = None,
    cache_type_k: options.CacheTypeK = "f16",
    cache_type_v: options.CacheTypeV = "f16",
    flash_attn: options.FlashAttention = "auto",
    load_mode: options.LoadMode = "auto",
    snapshot_ram: options.SnapshotRam = None,
    paging: Paging = False,
    plan: PlanFile = None,
    *,
    context: typer.Context,
) -> LoadRequest:
    """The options, as typer reads them from this signature, as a `LoadRequest`. Raises QwenctlError."""
    constraints = PlacementConstraints(
        context=ctx_size,
        cache_k=cache_type_k,
        cache_v=cache_type_v,
        flash=flash_attn,
        threads=threads,
        batch=batch_size or 0,
        micro_batch=ubatch_size or 0,
        load_mode=load_mode,
        snapshot_bytes=snapshot_ram,
        gpu_layers=gpu_layers,
        cpu_experts=_cpu_experts(n_cpu_moe, everything=cpu_moe),
        overrides=tuple(parse_override(text) for text in _split_items(override_tensor)),
        fit_targets=fit_target or (),
        split=tuple(_parse_proportion(text) for text in _split_items([tensor_split])),
        devices=tuple(_split_items([device])),
        rpc=tuple(_split_items(rpc)),
        paging=paging,
    )
    if plan is not None and constraints != PlacementConstraints():
        # What is typed wins over the settings, so that a file never contradicts it.
        typed = given_options(context).keys() & LOAD_PARAMETERS
        beside = typed - {"plan"}
        if ("plan" in typed) == bool(beside):
            raise QwenctlError("--plan cannot be used with options that a plan sets", "leave one of them out")
        return LoadRequest(constraints, None) if beside else LoadRequest(plan=plan)
    return LoadRequest(constraints, plan)


LOAD_PARAMETERS = frozenset(inspect.signature(_load_request).parameters) - {"context"}


def with_drafts(
    load: LoadRequest, draft: Literal["auto", "mtp", "ngram", "off"], draft_max: int, draft_min: int
) -> LoadRequest:
    """`load` with speculative decoding of `draft_min` to `draft_max` tokens (0: automatic). Raises QwenctlError."""
    if draft_max and draft_min > draft_max:
        raise QwenctlError(f"--draft-min {draft_min} and --draft-max {draft_max} cannot be used together")
    mtp = draft in ("auto", "mtp")
    return replace(
        load, constraints=replace(load.constraints, mtp=mtp, draft=draft, draft_max=draft_max, draft_min=draft_min)
    )


def with_load_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, which takes `load: LoadRequest`, with the options in place of that argument."""
    return with_options("load", _load_request, command)


def with_options(argument: str, declared: Callable[..., object], command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the parameters of `declared` in place of `argument`, which gets the result of `declared`."""
    own = inspect.signature(command, eval_str=True).parameters
    shared = inspect.signature(declared, eval_str=True).parameters
    together: list[inspect.Parameter] = []
    for name, parameter in own.items():
        together += [one for one in shared.values() if one.name not in own] if name == argument else [parameter]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        made = declared(**{name: values[name] if name in own else values.pop(name) for name in shared})
        command(**values, **{argument: made})

    together.sort(key=lambda parameter: parameter.kind)  # those that typer fills in itself come last
    signature = inspect.Signature(together)
    wrapped.__dict__["__signature__"] = signature
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in together}
    return wrapped


def _cpu_experts(layers: int | None, *, everything: bool) -> int | None:
    if everything and layers is not None:
        raise QwenctlError("--cpu-moe and --n-cpu-moe cannot be used together", "leave one of them out")
    return ALL_EXPERTS if everything else layers


def _split_items(given: Sequence[str] | None) -> list[str]:
    """The items of an option that may be repeated and may have several items, separated by commas.

    A comma inside brackets does not separate: it may be part of a regular expression.
    """
    return [item.strip() for text in given or () for item in re.split(r",(?![^\[({]*[\])}])", text) if item.strip()]


def _parse_proportion(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise QwenctlError(f"-ts: {text!r} is not a number", "-ts 3,1") from error
    if not 0 <= number < 1e6:
        raise QwenctlError(f"-ts: {text} is out of range", "-ts 3,1")
    return number
