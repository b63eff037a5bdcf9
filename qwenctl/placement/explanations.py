"""Why a plan is as it is, in sentences for a person."""

from __future__ import annotations

from quantize.formatting import format_bytes
from qwenctl.placement.forecast import UNKNOWN_DEVICE, UNKNOWN_RAM, Forecast
from qwenctl.placement.layer_split import LayerAssignment
from qwenctl.placement.problem import PlacementProblem
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU


def reasons(
    problem: PlacementProblem, layout: LayerAssignment, settings: LoadParams, cast: Forecast
) -> tuple[str, ...]:
    """The sentences, the most important first."""
    found = [*_rows(problem, layout), *_experts(problem, layout), *_settings(problem, layout, settings)]
    if problem.inventory.shape.mtp_blocks and not problem.wishes.mtp:
        found.append("the MTP block is not loaded: it is of no use without speculation")
    if cast.paged_bytes:
        found.append(
            f"{format_bytes(cast.paged_bytes)} do not fit into RAM: they are read from disk again and again, "
            "which costs most of the speed"
        )
    if problem.machine.ram_bandwidth is None:
        found.append(f"the RAM's speed is not known, {UNKNOWN_RAM / 1e9:.0f} GB/s are assumed: `qwenctl doctor`")
    found += [
        f"the speed of {device.name} is not known, {UNKNOWN_DEVICE / 1e9:.0f} GB/s are assumed"
        for device in problem.devices
        if device.bandwidth is None
    ]
    return tuple(found)


def _rows(problem: PlacementProblem, layout: LayerAssignment) -> list[str]:
    if not problem.machine.devices:
        return ["there is no GPU: all lies in RAM"]
    if not any(layout.counts):
        return ["nothing lies on a GPU, as was asked"]
    used = [device.name for device, count in zip(problem.devices, layout.counts, strict=True) if count]
    names = used[0] if len(used) == 1 else f"{', '.join(used[:-1])} and {used[-1]}"
    idle = [device.name for device, count in zip(problem.devices, layout.counts, strict=True) if not count]
    found = [f"{name} is not used: without it there are fewer copies" for name in idle]
    if layout.start:
        first = f"the first {layout.start} layers lie in RAM, the others on {names}: more has no room"
        return [first, *found]
    return [f"all that is read for every token lies on {names}: attention, shared experts, output, KV cache", *found]


def _experts(problem: PlacementProblem, layout: LayerAssignment) -> list[str]:
    sizes = {tensor.name: tensor.n_bytes for tensor in problem.inventory.tensors}
    on_devices = sum(sizes[name] for name, memory in layout.experts.items() if memory != CPU)
    in_ram = sum(sizes[name] for name, memory in layout.experts.items() if memory == CPU)
    shape = problem.inventory.shape
    if not shape.experts or not any(layout.counts):
        return []
    share = f"{shape.experts_used} of {shape.experts} are read for a token"
    if not in_ram and not problem.fixed:
        return [f"all routed experts ({format_bytes(on_devices)}) have room on the GPUs too"]
    if not on_devices:
        return [f"the routed experts lie in RAM: {share}"]
    return [
        f"routed experts fill what is left there ({format_bytes(on_devices)}); "
        f"{format_bytes(in_ram)} lie in RAM: {share}"
    ]


def _settings(problem: PlacementProblem, layout: LayerAssignment, settings: LoadParams) -> list[str]:
    found = []
    if (
        layout.has_cpu_experts
        and any(layout.counts)
        and settings.micro_batch_tokens > 512
        and problem.inventory.shape.experts
    ):
        found.append(
            f"micro-batch of {settings.micro_batch_tokens:,}: for a long prompt the experts are copied to the GPU once "
            "for each"
        )
    if settings.load_mode == "none" and problem.wishes.load_mode == "auto":
        found.append("load mode none: the GPU copies faster from memory that is no mapped file")
    if not problem.wishes.threads:
        found.append(
            f"{settings.threads} thread{'s' * (settings.threads > 1)}: as many as there are free physical cores"
        )
    return found
