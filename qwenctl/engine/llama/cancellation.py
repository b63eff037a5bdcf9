"""Whether the running request should stop, in a form that Python threads and libllama's own code can both look at.

The thread that reads requests sets it, the thread that works clears it and looks. While a prompt is read, libllama
looks too, before each node of the graph; a Python function there would take the GIL thousands of times a token.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as llama


class CancelFlag:
    """A flag: one byte of memory that C can read."""

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)
        # As a C function, strlen says exactly what is asked: 0 for a byte of zero, 1 for any other before the NUL.
        self.callback = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)

    @property
    def address(self) -> int:
        """Where the byte is: the argument of `callback`."""
        return ctypes.addressof(self._byte)

    def set(self) -> None:
        """Ask the running request to stop."""
        self._byte[0] = b"\1"

    def clear(self) -> None:
        """Forget it: a new request begins."""
        self._byte[0] = b"\0"

    def __bool__(self) -> bool:
        return self._byte[0] != b"\0"
