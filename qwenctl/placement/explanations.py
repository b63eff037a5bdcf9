"""Explains a plan, in sentences for the user."""

from __future__ import annotations

from quantize.formatting import format_memory
from qwenctl.placement.forecast import UNKNOWN_DEVICE, UNKNOWN_RAM, Forecast
from qwenctl.placement.layer_split import LayerAssignment
from qwenctl.placement.problem import PlacementProblem
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU


def explain_plan(
    problem: PlacementProblem, layout: LayerAssignment, settings: LoadParams, forecast: Forecast
) -> tuple[str, ...]:
    """The sentences, the most important first."""
    sentences = [
        *_explain_layers(problem, layout),
        *_explain_experts(problem, layout),
        *_explain_settings(problem, layout, settings),
    ]
    if problem.inventory.has_mtp and not problem.constraints.mtp:
        sentences.append("the MTP block is not loaded: it is only used for speculative decoding")
    if forecast.paged_bytes:
        sentences.append(
            f"{format_memory(forecast.paged_bytes)} do not fit in RAM and are read from disk for every token, "
            "which makes it very slow"
        )
    if problem.machine.ram_bandwidth is None:
        sentences.append(f"the RAM bandwidth is unknown, {UNKNOWN_RAM / 1e9:.0f} GB/s is assumed: run `qwenctl doctor`")
    sentences += [
        f"the bandwidth of {device.name} is unknown, {UNKNOWN_DEVICE / 1e9:.0f} GB/s is assumed"
        for device in problem.devices
        if device.bandwidth is None
    ]
    return tuple(sentences)


def _explain_layers(problem: PlacementProblem, layout: LayerAssignment) -> list[str]:
    if not problem.machine.devices:
        return ["no GPU: everything is in RAM"]
    if not any(layout.counts):
        return ["nothing is on a GPU, as requested"]
    used = [device.name for device, count in zip(problem.devices, layout.counts, strict=True) if count]
    names = used[0] if len(used) == 1 else f"{', '.join(used[:-1])} and {used[-1]}"
    idle = [device.name for device, count in zip(problem.devices, layout.counts, strict=True) if not count]
    sentences = [f"{name} is not used: leaving it out saves copies" for name in idle]
    if layout.start:
        first = f"the first {layout.start} layers are in RAM, the others on {names}: more do not fit"
        return [first, *sentences]
    return [
        f"everything that is read for every token is on {names}: attention, shared experts, output, KV cache",
        *sentences,
    ]


def _explain_experts(problem: PlacementProblem, layout: LayerAssignment) -> list[str]:
    sizes = {tensor.name: tensor.n_bytes for tensor in problem.inventory.tensors}
    on_devices = sum(sizes[name] for name, memory in layout.experts.items() if memory != CPU)
    in_ram = sum(sizes[name] for name, memory in layout.experts.items() if memory == CPU)
    shape = problem.inventory.shape
    if not shape.experts or not any(layout.counts):
        return []
    share = f"{shape.experts_used} of {shape.experts} are read per token"
    if not in_ram and not problem.fixed:
        return [f"all routed experts ({format_memory(on_devices)}) fit on the GPUs too"]
    if not on_devices:
        return [f"the routed experts are in RAM: {share}"]
    return [
        f"routed experts fill the rest of GPU memory ({format_memory(on_devices)}); "
        f"{format_memory(in_ram)} are in RAM: {share}"
    ]


def _explain_settings(problem: PlacementProblem, layout: LayerAssignment, settings: LoadParams) -> list[str]:
    sentences = []
    if (
        layout.has_cpu_experts
        and any(layout.counts)
        and settings.micro_batch_tokens > 512
        and problem.inventory.shape.experts
    ):
        sentences.append(
            f"micro-batch of {settings.micro_batch_tokens:,}: for a long prompt the experts are copied to the GPU once "
            "for each"
        )
    if settings.load_mode == "none" and problem.constraints.load_mode == "auto":
        sentences.append("load mode none: the GPU copies faster from memory that is not a mapped file")
    if not problem.constraints.threads:
        sentences.append(
            f"{settings.threads} thread{'s' * (settings.threads > 1)}: as many as there are free physical cores"
        )
    return sentences
