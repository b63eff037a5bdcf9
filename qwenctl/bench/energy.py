"""Joules, where this machine counts them: the processors' by RAPL, NVIDIA's cards by NVML.

What goes out is a `Meter`, or none. RAPL's counters are in /sys/class/powercap (Linux, Intel and AMD since Zen); most
systems let only root read them. What a machine takes beside them, at its plug, no counter knows: `of_watts` is for
those who have a meter there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qwenctl.machine.nvml import energy_joules

_POWERCAP = Path("/sys/class/powercap")
_MICRO = 1e-6
_JOULES_A_KWH = 3.6e6


@dataclass(frozen=True)
class Meter:
    """`read` gives the joules of each counter since some time; `ranges` at how many joules a counter begins again."""

    name: str
    read: Callable[[], Mapping[str, float]]
    ranges: Mapping[str, float]

    def since(self, before: Mapping[str, float]) -> float:
        """The joules since an earlier reading."""
        now, used = self.read(), 0.0
        for name, start in before.items():
            passed = now.get(name, start) - start
            used += passed if passed >= 0 else passed + self.ranges.get(name, 0.0)
        return used


def find_meter(powercap: Path = _POWERCAP) -> Meter | None:
    """What counts energy here; None if nothing does, or nothing that this process may read."""
    packages = _packages(powercap)
    ranges = {}
    for package in packages:
        with suppress(OSError, ValueError):
            ranges[package.name] = int((package / "max_energy_range_uj").read_text()) * _MICRO
    cards = energy_joules() is not None
    names = ["RAPL"] * bool(packages) + ["NVML"] * cards

    def read() -> dict[str, float]:
        found = {}
        for package in packages:
            with suppress(OSError, ValueError):
                found[package.name] = int((package / "energy_uj").read_text()) * _MICRO
        if cards:
            found["NVML"] = energy_joules() or 0.0
        return found

    return Meter(" + ".join(names), read, ranges) if names else None


def constant_power_meter(watts: float) -> Meter:
    """A meter that goes by a power that somebody has measured."""
    return Meter(f"{watts:g} W", lambda: {"watts": watts * time.perf_counter()}, {})


def price_of_million(joules_a_token: float, price_a_kwh: float) -> float:
    """What a million tokens cost, in the currency of the price."""
    return joules_a_token * 1e6 / _JOULES_A_KWH * price_a_kwh


def _packages(powercap: Path) -> list[Path]:
    """The zones of whole processors; those in them are parts of the same energy."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):
            if zone.name.count(":") == 1 and int((zone / "energy_uj").read_text()) >= 0:
                found.append(zone)
    return found
