"""What a person has fixed of a plan; the rest is planned around it.

Values of options come in, checked alone; here it is checked that they can be used together. Which devices and
tensors there are is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qwenctl.errors import ExitCode, QwenctlError

ALL_EXPERTS = 1 << 30
NO_DEVICE = "none"
_EXACT_CACHES = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class PlacementConstraints:
    """Zeros, empty values and None leave a choice to the planner.

    Each of `sequences` has `context` tokens. `cpu_experts` counts the first layers whose routed experts stay in RAM;
    `overrides` are pairs of a regular expression and a device; `fit_targets` are bytes that stay free on each device,
    one for all or one for each; `limits` are bytes that a device may hold at most, by its name. `vision_bytes` is the
    size of the mmproj file that is used; with `vision` it is that of the model's own tower.
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
    vision: bool = False
    vision_bytes: int = 0
    paging: bool = False

    @property
    def constrains_devices(self) -> bool:
        """Whether anything is asked for that only has a meaning with a device."""
        return bool(self.overrides or self.fit_targets or self.split or self.devices or self.rpc or self.gpu_layers > 0)


def validate_constraints(wishes: PlacementConstraints) -> None:
    """Raise QwenctlError for wishes that cannot be used together."""
    without = wishes.devices == (NO_DEVICE,) or wishes.gpu_layers == 0
    name = "--device none" if wishes.devices == (NO_DEVICE,) else "-ngl 0"
    others = {
        "-ngl": wishes.gpu_layers > 0,
        "--device": bool(wishes.devices) and wishes.devices != (NO_DEVICE,),
        "-ts": bool(wishes.split),
        "--n-cpu-moe": wishes.cpu_experts is not None and wishes.cpu_experts < ALL_EXPERTS,
        "-ot": any(device.upper() != "CPU" for _, device in wishes.overrides),
    }
    for option, given in others.items():
        if without and given:
            raise _contradiction(name, option)
    if NO_DEVICE in wishes.devices and len(wishes.devices) > 1:
        raise _contradiction("--device none", "--device with a name")
    if wishes.flash == "off" and wishes.cache_v not in _EXACT_CACHES:
        raise _contradiction("-fa off", f"-ctv {wishes.cache_v}")
    if wishes.paging and wishes.load_mode == "none":
        raise _contradiction("--paging", "--load-mode none")
    if wishes.batch and wishes.micro_batch > wishes.batch:
        raise _contradiction(f"-ub {wishes.micro_batch}", f"-b {wishes.batch}")


def parse_override(text: str) -> tuple[str, str]:
    """The pattern and the device of REGEX=DEVICE. Raises QwenctlError."""
    pattern, separator, device = text.rpartition("=")
    if not separator or not pattern or not device:
        raise QwenctlError(f"'{text}' is not REGEX=DEVICE", r"for example -ot '\.ffn_.*_exps\.=CPU'")
    try:
        re.compile(pattern)
    except re.error as error:
        raise QwenctlError(f"'{text}' has a bad pattern: {error}") from error
    return pattern, device


def _contradiction(one: str, other: str) -> QwenctlError:
    return QwenctlError(f"{one} and {other} cannot be used together", "leave one of them out", ExitCode.USAGE)


@dataclass(frozen=True)
class LoadRequest:
    """What is asked of a load: wishes for a plan, or the file of a plan that is made already."""

    wishes: PlacementConstraints = field(default_factory=PlacementConstraints)
    plan: Path | None = None
