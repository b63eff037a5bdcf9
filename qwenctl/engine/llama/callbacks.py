"""What libllama calls while it works: the receiver of its log, and the flag that stops it.

Every line of the log goes to standard error, which is the engine's log file. Only the log says why libllama rejects a
file: the errors since `clear` go out, for error messages, and the sizes of buffers.

The thread that reads requests sets the cancel flag of the running request; the thread that works clears and checks it.
During a prefill libllama checks it as well, before each node of the graph, where a Python function would take the GIL
thousands of times per token.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import llama_cpp.llama_cpp as llama

from quantize.file_system import write_all
from qwenctl.protocol.placement import CPU, MemoryUse

_MIB = 1 << 20
# src/llama-model.cpp, src/llama-kv-cache.cpp, src/llama-memory-recurrent.cpp, src/llama-context.cpp
_LINE = re.compile(r"^\w+: +(\S+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
_FIELDS = {"model": "weights", "KV": "context", "RS": "context", "compute": "compute", "output": "compute"}
# Buffers in RAM: the CPU's own, mapped from the file, repacked for its kernels, or pinned for a device's transfers.
_IN_RAM = re.compile(r"CPU(_\w+)?|BLAS|\w+_Host")
_MAPPED = "_Mapped"


def memory_use(lines: Iterable[str], devices: Mapping[str, str]) -> tuple[MemoryUse, ...]:
    """The memory that a model and its context take, the CPU's first; `devices` are names by buffer type."""
    used = {CPU: MemoryUse(CPU)}
    for line in lines:
        if match := _LINE.match(line):
            buffer, field, n_bytes = match[1], _FIELDS[match[2]], round(float(match[3]) * _MIB)
            name = CPU if _IN_RAM.fullmatch(buffer) else devices.get(buffer.removesuffix(_MAPPED), buffer)
            previous = used.get(name, MemoryUse(name))
            used[name] = replace(previous, **{field: getattr(previous, field) + n_bytes})
            if buffer.endswith(_MAPPED):
                used[name] = replace(used[name], mapped=used[name].mapped + n_bytes)
    return tuple(used.values())


_DEBUG, _ERROR, _CONTINUED = 1, 4, 5  # enum ggml_log_level of ggml.h (the copy in llama_cpp/_logger.py is an older one)
_STANDARD_ERROR = 2
_FUNCTION = re.compile(r"^(?:[a-z_0-9:]+: |error loading model: )*", re.IGNORECASE)


class LlamaLog:
    """The only receiver of libllama's log; it must live as long as libllama is used."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._sizes: list[str] = []
        self._level = 0
        self.callback = llama.llama_log_callback(self._receive)  # for libmtmd, which logs as libllama does
        llama.llama_log_set(self.callback, ctypes.c_void_p())

    def clear(self) -> None:
        """Forget the collected errors and sizes."""
        self._errors.clear()
        self._sizes.clear()

    def sizes(self) -> tuple[str, ...]:
        """The lines since `clear` that state buffer sizes."""
        return tuple(self._sizes)

    def reason(self) -> str:
        """The first error since `clear`, which caused all later ones, without the name of its C++ function."""
        lines = (_FUNCTION.sub("", line).strip() for line in "".join(self._errors).splitlines())
        return next((line for line in lines if line), "")

    def _receive(self, level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
        # A continued line has the level of the line that it continues.
        self._level = level if level != _CONTINUED else self._level
        if "buffer size" in (line := text.decode("utf-8", "replace")):
            self._sizes.append(line)
        if self._level == _ERROR:
            self._errors.append(line)
        if self._level != _DEBUG:
            write_all(_STANDARD_ERROR, text)


class CancelFlag:
    """A flag in one byte of memory that C code can read."""

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)
        self.address = ctypes.addressof(self._byte)  # the argument of `callback`
        # libllama calls a C function with an address, and stops if it returns true. strlen will do: it returns 0 if the
        # byte is zero, and 1 if it is not, since a NUL follows it.
        self.callback = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)

    def set(self) -> None:
        """Ask the running request to stop."""
        self._byte[0] = b"\1"

    def clear(self) -> None:
        """Reset the flag for a new request."""
        self._byte[0] = b"\0"

    def __bool__(self) -> bool:
        return self._byte[0] != b"\0"
