"""What a loaded model takes of each memory, by the lines of llama.cpp's log.

Lines such as "llama_kv_cache:  CUDA0 KV buffer size =  640.00 MiB" come in, a `MemoryUse` for each memory goes out.
The log is the one place where libllama tells it to a program that is not compiled with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from qwenctl.protocol.placement import CPU, MemoryUse

_MIB = 1 << 20
# src/llama-model.cpp, src/llama-kv-cache.cpp, src/llama-memory-recurrent.cpp, src/llama-context.cpp
_LINE = re.compile(r"^\w+: +(\S+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
_KINDS = {"model": "weights", "KV": "context", "RS": "context", "compute": "compute", "output": "compute"}
# Buffers in RAM: the CPU's own, mapped from the file, repacked for its kernels, and those a device can copy from fast.
_IN_RAM = re.compile(r"CPU(_\w+)?|BLAS|\w+_Host")
_MAPPED = "_Mapped"


def is_size(line: str) -> bool:
    """Whether a line of the log tells a size."""
    return "buffer size" in line


def memory_use(lines: Iterable[str], devices: Mapping[str, str]) -> tuple[MemoryUse, ...]:
    """The memories that a load and its context take, the CPU's first; `devices` names each by its buffers' name."""
    used = {CPU: MemoryUse(CPU)}
    for line in lines:
        if found := _LINE.match(line):
            buffer, kind, n_bytes = found[1], _KINDS[found[2]], round(float(found[3]) * _MIB)
            name = CPU if _IN_RAM.fullmatch(buffer) else devices.get(buffer.removesuffix(_MAPPED), buffer)
            before = used.get(name, MemoryUse(name))
            used[name] = replace(before, **{kind: getattr(before, kind) + n_bytes})
            if buffer.endswith(_MAPPED):
                used[name] = replace(used[name], mapped=used[name].mapped + n_bytes)
    return tuple(used.values())
