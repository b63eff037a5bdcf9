"""NVIDIA's management library by way of nvidia-ml-py, where that is installed: for what ggml does not tell.

Names and energy go out; nothing at all where there is no such package, no driver, or no card.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def cards() -> Iterator[tuple[Any, list[Any]]]:
    """The library and a handle for each card; none where the library cannot be used."""
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
    except Exception:  # noqa: BLE001 - its errors are classes that are only there with it
        yield None, []
        return
    try:
        yield library, [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
    finally:
        library.nvmlShutdown()


def card_names() -> tuple[str, ...]:
    """The names of the cards, as the driver has them."""
    with cards() as (library, handles):
        names = [library.nvmlDeviceGetName(handle) for handle in handles]
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)


def energy_joules() -> float | None:
    """What all cards have used since their driver was loaded; None where they do not count it (before Volta)."""
    with cards() as (library, handles):
        if not handles:
            return None
        try:
            return float(sum(library.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1000
        except library.NVMLError:
            return None
