"""The cancel flag of the running request, readable by Python threads and by libllama's own code.

The thread that reads requests sets it; the thread that works clears and checks it. During a prefill libllama checks it
as well, before each node of the graph, where a Python function would take the GIL thousands of times per token.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as llama


class CancelFlag:
    """A flag in one byte of memory that C code can read."""

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)
        # libllama calls a C function with an address, and stops if it returns true. strlen will do: it returns 0 if the
        # byte is zero, and 1 if it is not, since a NUL follows it.
        self.callback = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)

    @property
    def address(self) -> int:
        """The address of the byte: the argument of `callback`."""
        return ctypes.addressof(self._byte)

    def set(self) -> None:
        """Ask the running request to stop."""
        self._byte[0] = b"\1"

    def clear(self) -> None:
        """Reset the flag for a new request."""
        self._byte[0] = b"\0"

    def __bool__(self) -> bool:
        return self._byte[0] != b"\0"
