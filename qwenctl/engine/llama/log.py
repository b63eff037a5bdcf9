"""llama.cpp's log: every line goes to standard error, which is the engine's log file; errors are kept as well.

libllama says why it refuses a file only in its log. Lines come in by its callback; the sentences of the errors since
`clear` go out, for a failure's message.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import llama_cpp.llama_cpp as llama

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


_DEBUG, _ERROR, _CONTINUED = 1, 4, 5  # enum ggml_log_level of ggml.h (the copy in llama_cpp/_logger.py is an older one)
_STANDARD_ERROR = 2
_FUNCTION = re.compile(r"^(?:[a-z_0-9:]+: |error loading model: )*", re.IGNORECASE)


class LlamaLog:
    """The one receiver of libllama's log; must live as long as libllama is used."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._sizes: list[str] = []
        self._level = 0
        self.callback = llama.llama_log_callback(self._receive)  # for other libraries that log as libllama does
        llama.llama_log_set(self.callback, ctypes.c_void_p())

    def clear(self) -> None:
        """Forget the errors and sizes so far."""
        self._errors.clear()
        self._sizes.clear()

    def sizes(self) -> tuple[str, ...]:
        """The lines since `clear` that tell the sizes of buffers."""
        return tuple(self._sizes)

    def reason(self) -> str:
        """The first error since `clear`, which is the cause of all others, without the name of a C++ function."""
        lines = (_FUNCTION.sub("", line).strip() for line in "".join(self._errors).splitlines())
        return next((line for line in lines if line), "")

    def _receive(self, level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
        self._level = level if level != _CONTINUED else self._level
        if is_size(line := text.decode("utf-8", "replace")):
            self._sizes.append(line)
        if self._level == _ERROR:
            self._errors.append(line)
        if self._level != _DEBUG:
            os.write(_STANDARD_ERROR, text)
