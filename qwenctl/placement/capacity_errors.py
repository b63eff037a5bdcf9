"""What is said where something has no room: how much it needs, how much there is, and what would fit."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import replace

from quantize.formatting import format_memory
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.placement.constraints import ALL_EXPERTS, PlacementConstraints
from qwenctl.placement.layer_split import LayerAssignment, choose_layout, prefix_sums, split_layers
from qwenctl.placement.memory_breakdown import memory_plans, ram_needed
from qwenctl.placement.problem import PlacementProblem, build_problem
from qwenctl.protocol.placement import CPU

_LEAST_TOKENS, _TOKEN_STEP = 4096, 1024


def ram_exceeded(problem: PlacementProblem, layout: LayerAssignment) -> QwenctlError:
    """The RAM is too small for what must lie there."""
    ram, needed = memory_plans(problem, layout)[0], ram_needed(problem, layout)
    experts, context = ram.of("routed experts"), ram.of("KV cache", "state", "buffers", "snapshots")
    parts = {"experts": experts, "other weights": needed - experts - context, "context and buffers": context}
    told = ", ".join(f"{what} {format_memory(n_bytes)}" for what, n_bytes in parts.items() if n_bytes > needed // 100)
    free = problem.machine.ram_available
    most = _most_tokens(problem)
    smaller = f"-c {most} fits" if most else "a smaller quantization or context"
    return QwenctlError(
        f"needs {format_memory(needed)} of RAM ({told}), {format_memory(free)} is free "
        f"({format_memory(needed - free)} short)",
        f"{smaller}; --paging reads what does not fit from disk, for every token",
        ExitCode.NO_MEMORY,
    )


def _most_tokens(problem: PlacementProblem) -> int:
    """The longest context for which there is RAM; 0 if that is less than is of use."""

    def fits(tokens: int) -> bool:
        context = replace(problem.context, tokens=tokens)
        tried = build_problem(problem.inventory, problem.machine, problem.wishes, context, {})
        layout = choose_layout(tried)
        return layout is not None and ram_needed(tried, layout) <= tried.machine.ram_available

    steps = range(_LEAST_TOKENS, problem.context.tokens, _TOKEN_STEP)
    count = bisect.bisect_left(steps, True, key=lambda tokens: not fits(tokens))
    return steps[count - 1] if count else 0


def device_memory_exceeded(problem: PlacementProblem) -> QwenctlError:
    """What was fixed by hand has no room on the devices."""
    name, needed, free = _tightest(problem)
    option, hint = _what_fits(problem)
    return QwenctlError(
        f"{option} does not fit: {name} would hold {format_memory(needed)}, {format_memory(free)} is free",
        hint,
        ExitCode.NO_MEMORY,
    )


def _tightest(problem: PlacementProblem) -> tuple[str, int, int]:
    """The device that lacks most, what it would hold, and what it has, with the rows divided by room."""
    rows = len(problem.rows)
    count = rows if problem.wishes.gpu_layers < 0 else min(rows, problem.wishes.gpu_layers)
    rooms = [float(problem.room(number)) for number in range(len(problem.devices))]
    weights = [*problem.wishes.split, *([0.0] * len(rooms))][: len(rooms)] if problem.wishes.split else rooms
    counts, sums, at, found = split_layers(count, weights), prefix_sums(problem), rows - count, []
    for number, device in enumerate(problem.devices):
        end = at + counts[number]
        held = sums.held[end] - sums.held[at] + sums.fixed.get(device.name, 0) + problem.vision(number)
        held += sums.experts[end] - sums.experts[at] if problem.must_fill else 0
        held += problem.device_compute(number, mixed=True, used=len(problem.devices))
        found.append((device.name, held, problem.room(number)))
        at = end
    return max(found, key=lambda one: one[1] - one[2])


def _what_fits(problem: PlacementProblem) -> tuple[str, str]:
    """What was asked for, and what would fit in its place."""
    wishes, blocks = problem.wishes, problem.inventory.shape.blocks
    if wishes.cpu_experts is not None and wishes.cpu_experts < ALL_EXPERTS:
        more = range(wishes.cpu_experts + 1, blocks + 1)
        number = _first(problem, more, lambda one: replace(wishes, cpu_experts=one))
        asked = f"--n-cpu-moe {wishes.cpu_experts}"
        return asked, f"--n-cpu-moe {number} fits" if number is not None else "leave out it and -ngl to find what fits"
    if wishes.gpu_layers > 0:
        fewer = range(wishes.gpu_layers - 1, -1, -1)
        number = _first(problem, fewer, lambda one: replace(wishes, gpu_layers=one, split=(), devices=()))
        return f"-ngl {wishes.gpu_layers}", f"-ngl {number} fits; leave it out to find what fits"
    if wishes.split:
        return (
            f"-ts {','.join(f'{part:g}' for part in wishes.split)}",
            "leave out -ts to split the layers by free memory",
        )
    if any(memory != CPU for memory in problem.fixed.values()):
        return "-ot", "fewer tensors on the device, or a smaller context (-c)"
    return "the model", "--device none uses no GPU"


def _first(problem: PlacementProblem, numbers: range, wish: Callable[[int], PlacementConstraints]) -> int | None:
    """The first of the numbers with which all has room; whether it has only changes once along them."""
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        changed = wish(numbers[middle])
        tried = build_problem(problem.inventory, problem.machine, changed, problem.context, {})
        if choose_layout(tried) is None:
            low = middle + 1
        else:
            high = middle
    return numbers[low] if low < len(numbers) else None
