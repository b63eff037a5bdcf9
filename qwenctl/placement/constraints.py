"""What the user has fixed of a plan; the planner decides the rest.

Option values come in, each already validated by itself; here they are checked for contradictions. Which devices and
tensors exist is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import TemplateOverride

ALL_EXPERTS = 1 << 30
NO_DEVICE = "none"
_EXACT_CACHES = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class PlacementConstraints:
    """The user's choices; zeros, empty values and None leave a choice to the planner.

    Each of `sequences` has `context` tokens. `cpu_experts` is the number of leading layers whose routed experts stay in
    RAM; `overrides` are pairs of a regular expression and a device; `fit_targets` are bytes to keep free on each
    device, one value for all or one for each; `limits` are the maximum bytes a device may hold, by its name.
    `vision_bytes` is the size of the mmproj file in use.
    """

    context: int = 0
    sequences: int = 1
    cache_k: str = "f16"
    cache_v: str = "f16"
    flash: Literal["auto", "on", "off"] = "auto"
    threads: int = 0
    batch: int = 0
    micro_batch: int = 0
    load_mode: Literal["auto", "mmap", "none"] = "auto"
    snapshot_bytes: int | None = None
    gpu_layers: int = -1
    cpu_experts: int | None = None
    overrides: tuple[tuple[str, str], ...] = ()
    fit_targets: tuple[int, ...] = ()
    limits: tuple[tuple[str, int], ...] = ()
    split: tuple[float, ...] = ()
    devices: tuple[str, ...] = ()
    rpc: tuple[str, ...] = ()
    mtp: bool = False
    draft: Literal["auto", "mtp", "ngram", "off"] = "off"
    draft_max: int = 0
    draft_min: int = 0
    vision_bytes: int = 0
    paging: bool = False

    @property
    def constrains_devices(self) -> bool:
        """Whether an option is set that only makes sense with a device."""
        return bool(self.overrides or self.fit_targets or self.split or self.devices or self.rpc or self.gpu_layers > 0)


def validate_constraints(constraints: PlacementConstraints) -> None:
    """Raises QwenctlError for constraints that cannot be used together."""
    without_devices = constraints.devices == (NO_DEVICE,) or constraints.gpu_layers == 0
    name = "--device none" if constraints.devices == (NO_DEVICE,) else "-ngl 0"
    device_options = {
        "-ngl": constraints.gpu_layers > 0,
        "--device": bool(constraints.devices) and constraints.devices != (NO_DEVICE,),
        "-ts": bool(constraints.split),
        "--n-cpu-moe": constraints.cpu_experts is not None and constraints.cpu_experts < ALL_EXPERTS,
        "-ot": any(device.upper() != "CPU" for _, device in constraints.overrides),
    }
    for option, is_set in device_options.items():
        if without_devices and is_set:
            raise _contradiction(name, option)
    if NO_DEVICE in constraints.devices and len(constraints.devices) > 1:
        raise _contradiction("--device none", "--device with a name")
    if constraints.flash == "off" and constraints.cache_v not in _EXACT_CACHES:
        raise _contradiction("-fa off", f"-ctv {constraints.cache_v}")
    if constraints.paging and constraints.load_mode == "none":
        raise _contradiction("--paging", "--load-mode none")
    if constraints.batch and constraints.micro_batch > constraints.batch:
        raise _contradiction(f"-ub {constraints.micro_batch}", f"-b {constraints.batch}")


def parse_override(text: str) -> tuple[str, str]:
    """Split REGEX=DEVICE into pattern and device. Raises QwenctlError."""
    pattern, separator, device = text.rpartition("=")
    if not separator or not pattern or not device:
        raise QwenctlError(f"-ot '{text}' is not REGEX=DEVICE", r"for example -ot '\.ffn_.*_exps\.=CPU'")
    try:
        re.compile(pattern)
    except re.error as error:
        raise QwenctlError(f"-ot '{text}' has a bad pattern: {error}") from error
    return pattern, device


def _contradiction(first: str, second: str) -> QwenctlError:
    return QwenctlError(f"{first} and {second} cannot be used together", "leave one of them out", ExitCode.USAGE)


@dataclass(frozen=True)
class LoadRequest:
    """How to load a model: constraints for a new plan, or the file of an existing one, and its chat template."""

    constraints: PlacementConstraints = field(default_factory=PlacementConstraints)
    plan: Path | None = None
    template: TemplateOverride = field(default_factory=TemplateOverride)
