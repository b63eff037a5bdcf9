"""Decide where a model fits on this machine, and which of several candidates to take.

Sizes, the memory of a context and a `MachineMemory` come in; a `Fit` for each candidate goes out, and a choice with its
reason. Neither the Hub nor the hardware is queried here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quantize.formatting import format_bytes, format_memory
from qwenctl.errors import ExitCode, QwenctlError, command_line
from qwenctl.machine import MachineMemory
from qwenctl.models.context_memory import ContextMemory

Where = Literal["GPU", "GPU + RAM", "RAM", "would page from disk", "does not fit"]
IN_MEMORY: tuple[Where, ...] = ("GPU", "GPU + RAM", "RAM")
# Usable shares: a tenth of the RAM is left to the system and other programs, 5 % of a GPU to its driver and display.
_RAM_SHARE, _GPU_SHARE = 0.9, 0.95
_UNQUANTIZED = ("BF16", "F16", "F32")
# ik_llama.cpp's own types, which llama.cpp cannot load: IQ4_K, IQ2_KS, IQ4_KSS, IQ3_KT, and repacked types.
_FORK_ONLY = re.compile(r"(UD-)?IQ\d_(K\w*|BN)|Q6_0|Q8_KV|.*_R(4|8|16)", re.IGNORECASE)


@dataclass(frozen=True)
class PullCandidate:
    """A model that could be pulled: `n_bytes` is its size, `disk_bytes` the disk space that the pull needs."""

    label: str
    n_bytes: int
    disk_bytes: int

    @property
    def needs_llama_fork(self) -> bool:
        """Whether only the fork ik_llama.cpp can load it."""
        return bool(_FORK_ONLY.fullmatch(self.label))


@dataclass(frozen=True)
class Fit:
    """Where a candidate fits together with a default context; `needed_bytes` is the memory of both."""

    candidate: PullCandidate
    where: Where
    needed_bytes: int


def fit_candidate(candidate: PullCandidate, context: ContextMemory, machine: MachineMemory, free_disk: int) -> Fit:
    """Decide where a candidate fits on this machine, with `free_disk` bytes of disk space."""
    needed = candidate.n_bytes + context.n_bytes
    gpu, ram = int(machine.gpu_bytes * _GPU_SHARE), int(machine.memory.total_bytes * _RAM_SHARE)
    # In order of speed: everything on the GPU, a part in RAM, pages from disk.
    if candidate.disk_bytes > free_disk:
        where: Where = "does not fit"
    elif needed <= gpu:
        where = "GPU"
    elif needed <= gpu + ram:
        where = "GPU + RAM" if gpu else "RAM"
    else:
        where = "would page from disk"
    return Fit(candidate, where, needed)


def best_fit(repository: str, fits: Sequence[Fit], context: ContextMemory, machine: MachineMemory) -> tuple[Fit, str]:
    """Choose the best candidate that fits into memory, and explain why. Raises QwenctlError if none does.

    The largest quantized candidate wins; 16 and 32 bits are chosen only if nothing else fits, because quantizing to 8
    bits loses almost nothing.
    """
    usable = [fit for fit in fits if not fit.candidate.needs_llama_fork]
    in_memory = [fit for fit in usable if fit.where in IN_MEMORY]
    if not in_memory:
        raise _nothing_fits_error(repository, usable, machine)
    quantized = [fit for fit in in_memory if fit.candidate.label not in _UNQUANTIZED]
    best = max(quantized or in_memory, key=lambda fit: fit.candidate.n_bytes)
    context_text = f"{format_memory(context.n_bytes)} for {context.tokens:,} tokens of context"
    return best, (
        f"{best.candidate.label} ({format_bytes(best.candidate.n_bytes)}): "
        f"the largest that fits in {_describe_memory(machine)} with {context_text}"
    )


def _nothing_fits_error(repository: str, fits: Sequence[Fit], machine: MachineMemory) -> QwenctlError:
    """The error if no candidate fits, which depends on what is missing: disk, memory or support."""
    if not fits:
        return QwenctlError(
            f"{repository} has no file that llama.cpp can load", command_line("ls", repository), ExitCode.NO_INPUT
        )
    smallest = min(fits, key=lambda fit: fit.candidate.n_bytes)
    label, needed = smallest.candidate.label, format_memory(smallest.needed_bytes)
    if smallest.where == "does not fit":
        hint = "`--to DIR` on another disk, or `qwenctl clean`"
        return QwenctlError(
            f"even {label} of {repository} needs {format_bytes(smallest.candidate.disk_bytes)} of disk",
            hint,
            ExitCode.IO,
        )
    return QwenctlError(
        f"no quantization of {repository} fits: even {label} needs {needed}, "
        f"this machine has {_describe_memory(machine)}",
        f"`{command_line('pull', f'{repository}:{label}')}` pulls it anyway: it would page from disk",
        ExitCode.NO_MEMORY,
    )


def _describe_memory(machine: MachineMemory) -> str:
    """Describe the machine's memory for a message."""
    ram = f"{format_memory(machine.memory.total_bytes)} of RAM"
    return f"{format_memory(machine.gpu_bytes)} of GPU memory and {ram}" if machine.gpu_bytes else ram
