"""Measure energy in joules, if this machine can: CPUs with RAPL, NVIDIA GPUs with NVML.

An `EnergyMeter` goes out, or None. RAPL's counters are in /sys/class/powercap (Linux; Intel, and AMD since Zen); most
systems let only root read them. They do not cover the rest of the machine: `constant_power_meter` is for users with a
wattmeter at the outlet.
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
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class EnergyMeter:
    """`read` returns the joules of each counter since an arbitrary time; a counter wraps at its value in `ranges`."""

    name: str
    read: Callable[[], Mapping[str, float]]
    ranges: Mapping[str, float]

    def joules_since(self, before: Mapping[str, float]) -> float:
        """Return the joules of all counters since the reading `before`; each may have wrapped once."""
        now, used = self.read(), 0.0
        for name, start in before.items():
            passed = now.get(name, start) - start  # a counter that can no longer be read counts as unchanged
            used += passed if passed >= 0 else passed + self.ranges.get(name, 0.0)
        return used


def find_meter(powercap: Path = _POWERCAP) -> EnergyMeter | None:
    """Return a meter of the counters that this process may read; None if there are none."""
    packages = _find_packages(powercap)
    ranges = {}
    for package in packages:
        with suppress(OSError, ValueError):
            ranges[package.name] = int((package / "max_energy_range_uj").read_text()) * _MICRO
    cards = energy_joules() is not None
    names = ["RAPL"] * bool(packages) + ["NVML"] * cards

    def read() -> dict[str, float]:
        joules = {}
        for package in packages:
            with suppress(OSError, ValueError):
                joules[package.name] = int((package / "energy_uj").read_text()) * _MICRO
        if cards:
            joules["NVML"] = energy_joules() or 0.0
        return joules

    return EnergyMeter(" + ".join(names), read, ranges) if names else None


def constant_power_meter(watts: float) -> EnergyMeter:
    """Return a meter that assumes a constant power of `watts`."""
    return EnergyMeter(f"{watts:g} W", lambda: {"watts": watts * time.perf_counter()}, {})


def price_of_million(joules_per_token: float, price_per_kwh: float) -> float:
    """Return the price of the energy for a million tokens, in the currency of `price_per_kwh`."""
    return joules_per_token * 1e6 / _JOULES_PER_KWH * price_per_kwh


def _find_packages(powercap: Path) -> list[Path]:
    """Return the RAPL zones of whole CPU packages; the zones nested in them count the same energy again."""
    packages = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):
            if zone.name.count(":") == 1 and int((zone / "energy_uj").read_text()) >= 0:
                packages.append(zone)
    return packages
