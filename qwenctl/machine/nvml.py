"""NVIDIA's management library, through nvidia-ml-py if that is installed: for what ggml does not report.

Names and energy go out; nothing if the package, the driver or a GPU is missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def cards() -> Iterator[tuple[Any, list[Any]]]:
    """The library and a handle for each GPU; (None, []) if the library cannot be used."""
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
    except Exception:  # noqa: BLE001 - its exception classes only exist once it is imported
        yield None, []
        return
    try:
        yield library, [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
    finally:
        library.nvmlShutdown()


def card_names() -> tuple[str, ...]:
    """The names of the GPUs, as the driver reports them."""
    with cards() as (library, handles):
        names = [library.nvmlDeviceGetName(handle) for handle in handles]
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)


def energy_joules() -> float | None:
    """The joules that all GPUs have used since their driver was loaded; None if they do not count it (before Volta)."""
    with cards() as (library, handles):
        if not handles:
            return None
        try:
            return float(sum(library.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1000
        except library.NVMLError:
            return None
