"""Where a model would fit on this machine, and which of several to take.

Sizes, the memory of a context and a `MachineMemory` come in; a `Fit` for each candidate goes out, and a choice with its
reason. Nothing is asked of the Hub or of the machine here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quantize.formatting import format_bytes, format_memory
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine import MachineMemory
from qwenctl.models.context_memory import ContextMemory

Where = Literal["GPU", "GPU + RAM", "RAM", "would page from disk", "does not fit"]
IN_MEMORY: tuple[Where, ...] = ("GPU", "GPU + RAM", "RAM")
# What is left to the system and to other programs: a tenth of the RAM, and what a GPU's driver and screen take.
_RAM_SHARE, _GPU_SHARE = 0.9, 0.95
_UNQUANTIZED = ("BF16", "F16", "F32")
# ik_llama.cpp's own types, which llama.cpp cannot load: IQ4_K, IQ2_KS, IQ4_KSS, IQ3_KT, and repacked ones.
_FOREIGN = re.compile(r"(UD-)?IQ\d_(K\w*)|.*_R[48]|IQ1_S_R4", re.IGNORECASE)


@dataclass(frozen=True)
class PullCandidate:
    """A model that could be pulled; `n_bytes` are those of its weights, `disk_bytes` what it takes to get it."""

    label: str
    n_bytes: int
    disk_bytes: int

    @property
    def needs_llama_fork(self) -> bool:
        """Whether only a fork of llama.cpp can load it."""
        return bool(_FOREIGN.fullmatch(self.label))


@dataclass(frozen=True)
class Fit:
    """Where a candidate would lie, with a usual context."""

    candidate: PullCandidate
    where: Where
    needed_bytes: int


def fit_candidate(candidate: PullCandidate, context: ContextMemory, machine: MachineMemory, free_disk: int) -> Fit:
    """Where a model would lie on this machine."""
    needed = candidate.n_bytes + context.n_bytes
    gpu, ram = int(machine.gpu_bytes * _GPU_SHARE), int(machine.memory.total_bytes * _RAM_SHARE)
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
    """The best that fits into memory as a whole, and why. Raises QwenctlError if none does.

    More bits are better, up to those at which nothing is lost: 16 are taken only where there is nothing else.
    """
    usable = [fit for fit in fits if not fit.candidate.needs_llama_fork]
    fitting = [fit for fit in usable if fit.where in IN_MEMORY]
    if not fitting:
        raise _nothing_fits(repository, usable, machine)
    quantized = [fit for fit in fitting if fit.candidate.label not in _UNQUANTIZED]
    best = max(quantized or fitting, key=lambda fit: fit.candidate.n_bytes)
    room = f"{format_memory(context.n_bytes)} for {context.tokens:,} tokens of context"
    return best, (
        f"{best.candidate.label} ({format_bytes(best.candidate.n_bytes)}): the largest that fits in {_memory(machine)} "
        f"with {room}"
    )


def _nothing_fits(repository: str, fits: Sequence[Fit], machine: MachineMemory) -> QwenctlError:
    if not fits:
        return QwenctlError(
            f"{repository} has no file that llama.cpp can load", f"qwenctl ls {repository}", ExitCode.NO_INPUT
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
        f"no quantization of {repository} fits: even {label} needs {needed}, this machine has {_memory(machine)}",
        f"qwenctl pull {repository}:{label} pulls it anyway: it would page from disk",
        ExitCode.NO_MEMORY,
    )


def _memory(machine: MachineMemory) -> str:
    """What there is, in words."""
    ram = f"{format_memory(machine.memory.total_bytes)} of RAM"
    return f"{format_memory(machine.gpu_bytes)} of GPU memory and {ram}" if machine.gpu_bytes else ram
