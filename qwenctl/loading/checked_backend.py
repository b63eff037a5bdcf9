"""Engines and hardware for commands, after the backend check: devices that compute wrong results are left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from qwenctl.errors import QwenctlError
from qwenctl.protocol.load import TemplateOverride
from qwenctl.terminal.streams import StatusLine, warn

if TYPE_CHECKING:
    from qwenctl.engine.client import Engine
    from qwenctl.machine.profile import Machine
    from qwenctl.placement.constraints import PlacementConstraints

Notify = Callable[[str], None]


def start_engine(
    notify: Notify = warn,
    template: TemplateOverride = TemplateOverride(),  # noqa: B008 - frozen
) -> Engine:
    """A new engine, once the backend check has passed; it uses the `template`. Raises QwenctlError if it fails."""
    from qwenctl.backend_check.check import require_backend
    from qwenctl.engine.client import Engine
    from qwenctl.files.paths import log_folder

    with _show_check() as show:
        backend = require_backend(report=notify, show=show)
    try:
        logs = log_folder()
    except QwenctlError:  # no writable home folder: no reason not to answer
        logs = None
    return Engine.start(logs, backend, template)


def read_usable_hardware(constraints: PlacementConstraints, notify: Notify = warn) -> Machine:
    """This machine without devices that compute wrong results, except those named by --device. Raises QwenctlError."""
    from qwenctl.backend_check.check import failed_devices, require_backend
    from qwenctl.machine.inspect import inspect_machine, to_plan_machine

    found = inspect_machine(constraints.rpc)
    if found.build.error:
        return to_plan_machine(found)
    with _show_check() as show:
        backend = require_backend(found.build.devices, report=notify, show=show)
    machine = to_plan_machine(found)
    failed = failed_devices(backend, found.build.devices)
    for name in sorted(failed & set(constraints.devices)):
        notify(f"{name} is used because --device names it, although it computes wrong results (see `qwenctl doctor`)")
    return without_devices(machine, failed - set(constraints.devices))


@contextmanager
def _show_check() -> Iterator[Notify]:
    """Inside, the yielded function shows a status line on a terminal; it is cleared afterwards."""
    status = StatusLine(sys.stderr)
    try:
        yield status.show
    finally:
        status.clear()


def without_devices(machine: Machine, names: Collection[str]) -> Machine:
    """The machine without the devices with these names."""
    return replace(machine, devices=tuple(one for one in machine.devices if one.name not in names))
