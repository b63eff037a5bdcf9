"""Errors for models that do not fit: how much they need, how much there is, and what would fit."""

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

_MIN_TOKENS, _TOKEN_STEP = 4096, 1024  # of the contexts that are suggested


def ram_exceeded(problem: PlacementProblem, layout: LayerAssignment) -> QwenctlError:
    """The error for a layout whose RAM part does not fit."""
    ram, needed = memory_plans(problem, layout)[0], ram_needed(problem, layout)
    experts, context = ram.of("routed experts"), ram.of("KV cache", "state", "buffers", "snapshots")
    parts = {"experts": experts, "other weights": needed - experts - context, "context and buffers": context}
    breakdown = ", ".join(
        f"{what} {format_memory(n_bytes)}" for what, n_bytes in parts.items() if n_bytes > needed // 100
    )
    free = problem.machine.ram_available
    max_tokens = _max_tokens(problem)
    suggestion = f"-c {max_tokens} fits" if max_tokens else "a smaller quantization or context"
    return QwenctlError(
        f"needs {format_memory(needed)} of RAM ({breakdown}), {format_memory(free)} is free "
        f"({format_memory(needed - free)} short)",
        f"{suggestion}; --paging reads what does not fit from disk, for every token",
        ExitCode.NO_MEMORY,
    )


def _max_tokens(problem: PlacementProblem) -> int:
    """The longest context that fits into RAM; 0 if even the shortest useful one does not."""

    def fits(tokens: int) -> bool:
        context = replace(problem.context, tokens=tokens)
        candidate = build_problem(problem.inventory, problem.machine, problem.constraints, context, {})
        layout = choose_layout(candidate)
        return layout is not None and ram_needed(candidate, layout) <= candidate.machine.ram_available

    # The memory grows with the context, so the limit can be found by bisection.
    steps = range(_MIN_TOKENS, problem.context.tokens, _TOKEN_STEP)
    count = bisect.bisect_left(steps, True, key=lambda tokens: not fits(tokens))
    return steps[count - 1] if count else 0


def device_memory_exceeded(problem: PlacementProblem) -> QwenctlError:
    """The error for options that put more on the devices than fits there."""
    name, needed, free = _tightest(problem)
    option, hint = _what_fits(problem)
    return QwenctlError(
        f"{option} does not fit: {name} would hold {format_memory(needed)}, {format_memory(free)} is free",
        hint,
        ExitCode.NO_MEMORY,
    )


def _tightest(problem: PlacementProblem) -> tuple[str, int, int]:
    """The device that lacks the most bytes, the bytes it would hold, and its capacity; layers are split by capacity."""
    n_slots = len(problem.layer_slots)
    count = n_slots if problem.constraints.gpu_layers < 0 else min(n_slots, problem.constraints.gpu_layers)
    capacities = [float(problem.capacity(number)) for number in range(len(problem.devices))]
    weights = (
        [*problem.constraints.split, *([0.0] * len(capacities))][: len(capacities)]
        if problem.constraints.split
        else capacities
    )
    counts, sums, at, usage = split_layers(count, weights), prefix_sums(problem), n_slots - count, []
    for number, device in enumerate(problem.devices):
        end = at + counts[number]
        used = sums.resident[end] - sums.resident[at] + sums.fixed.get(device.name, 0) + problem.vision_bytes(number)
        used += sums.experts[end] - sums.experts[at] if problem.must_fill else 0
        used += problem.device_compute(number, mixed=True, used=len(problem.devices))
        usage.append((device.name, used, problem.capacity(number)))
        at = end
    return max(usage, key=lambda entry: entry[1] - entry[2])


def _what_fits(problem: PlacementProblem) -> tuple[str, str]:
    """The option that does not fit, and a hint at what would."""
    constraints, blocks = problem.constraints, problem.inventory.shape.blocks
    if constraints.cpu_experts is not None and constraints.cpu_experts < ALL_EXPERTS:
        more = range(constraints.cpu_experts + 1, blocks + 1)
        number = _first_fitting(problem, more, lambda count: replace(constraints, cpu_experts=count))
        option = f"--n-cpu-moe {constraints.cpu_experts}"
        return option, f"--n-cpu-moe {number} fits" if number is not None else "leave out it and -ngl to find what fits"
    if constraints.gpu_layers > 0:
        fewer = range(constraints.gpu_layers - 1, -1, -1)
        number = _first_fitting(
            problem, fewer, lambda count: replace(constraints, gpu_layers=count, split=(), devices=())
        )
        return f"-ngl {constraints.gpu_layers}", f"-ngl {number} fits; leave it out to find what fits"
    if constraints.split:
        return (
            f"-ts {','.join(f'{part:g}' for part in constraints.split)}",
            "leave out -ts to split the layers by free memory",
        )
    if any(memory != CPU for memory in problem.fixed.values()):
        return "-ot", "fewer tensors on the device, or a smaller context (-c)"
    return "the model", "--device none uses no GPU"


def _first_fitting(
    problem: PlacementProblem, numbers: range, with_number: Callable[[int], PlacementConstraints]
) -> int | None:
    """The first of `numbers` for which the model fits, found by bisection: it fits for all numbers after the first."""
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        constraints = with_number(numbers[middle])
        candidate = build_problem(problem.inventory, problem.machine, constraints, problem.context, {})
        if choose_layout(candidate) is None:
            low = middle + 1
        else:
            high = middle
    return numbers[low] if low < len(numbers) else None
