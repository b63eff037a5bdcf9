"""What a context puts out for the tokens that it has evaluated, as arrays in libllama's own memory.

The number of a row comes in, its logits go out, or the states that an MTP head reads. Writing to logits changes what a
chain of samplers sees. Who needs them is not known here.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp_ext

_MAX_ARRAYS = 1024  # as libllama moves its memory only rarely, there are not nearly as many


class LogitsView:
    """The outputs of a context; each array is made once for each address, for that takes longer than to use it.

    States have `state_size` numbers.
    """

    def __init__(self, context: llama.llama_context_p, vocabulary_size: int, state_size: int = 0) -> None:
        self.context, self.vocabulary_size, self._state_size = context, vocabulary_size, state_size
        self._arrays: dict[tuple[int, tuple[int, ...]], npt.NDArray[np.float32]] = {}

    def row(self, number: int) -> npt.NDArray[np.float32]:
        """The logits [vocabulary size] of the token at `number` of the last batch; -1 is the last."""
        return self._array(llama.llama_get_logits_ith(self.context, number), (self.vocabulary_size,))

    def state(self, number: int) -> npt.NDArray[np.float32]:
        """The state [state size] of the last layer for the token at `number` of the last batch."""
        pointer = llama_cpp_ext.llama_get_embeddings_nextn_ith(self.context, number)
        return self._array(pointer, (self._state_size,))

    def states(self, count: int) -> npt.NDArray[np.float32]:
        """The states [count, state size] of the first `count` tokens of the last batch."""
        return self._array(llama_cpp_ext.llama_get_embeddings_nextn(self.context), (count, self._state_size))

    def _array(self, pointer: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        key = ctypes.cast(pointer, ctypes.c_void_p).value or 0, shape
        if key not in self._arrays:
            if len(self._arrays) >= _MAX_ARRAYS:
                self._arrays.clear()
            floats = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
            self._arrays[key] = np.ctypeslib.as_array(floats, shape)
        return self._arrays[key]
