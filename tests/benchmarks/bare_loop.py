"""The lower bound: llama_decode in a loop, without sampling, text or pipe; prints the seconds taken.

`python -m tests.benchmarks.bare_loop MODEL CONTEXT THREADS PROMPT_TOKENS TOKENS`
"""

from __future__ import annotations

import ctypes
import sys
import time

import llama_cpp.llama_cpp as llama

_silent = llama.llama_log_callback(lambda *_: None)  # never freed: libllama calls it until the end


def _main(model: str, size: int, threads: int, prompt: int, tokens: int) -> None:
    llama.llama_log_set(_silent, ctypes.c_void_p())
    llama.llama_backend_init()
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = size, threads, threads
    params.n_outputs_max, params.no_perf = 1, True
    pointer = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
    context = llama.llama_init_from_model(pointer, params)
    one = (ctypes.c_int32 * 1)()
    batch = llama.llama_batch_get_one(one, 1)  # the batch only points to `one`

    def decode(count: int) -> None:
        for number in range(count):
            one[0] = number * 7919 % 1900  # any token costs the same
            if llama.llama_decode(context, batch):
                sys.exit("llama_decode failed")

    decode(prompt)
    start = time.perf_counter()
    decode(tokens)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:]))
