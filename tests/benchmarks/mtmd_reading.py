"""A question about an image by libmtmd's helpers, as in llama-mtmd-cli; the seconds for each path are printed.

`python -m tests.benchmarks.mtmd_reading MODEL MMPROJ THREADS CONTEXT`, with paths of images on standard input.
"""

from __future__ import annotations

import ctypes
import sys
import time

import llama_cpp.llama_cpp as llama
import llama_cpp.mtmd_cpp as mtmd

_PROMPT = (
    "<|im_start|>user\n<__media__>What is in the picture?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
_BATCH = 2048


@llama.llama_log_callback
def _quiet(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    pass


def _main(model_path: str, mmproj: str, threads: int, size: int) -> None:
    llama.llama_log_set(_quiet, ctypes.c_void_p())
    mtmd.mtmd_helper_log_set(_quiet, ctypes.c_void_p())
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(model_path.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_outputs_max = size, _BATCH, 1
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    seeing = mtmd.mtmd_context_params_default()
    seeing.n_threads, seeing.print_timings, seeing.warmup = threads, False, False
    tower = mtmd.mtmd_init_from_file(mmproj.encode(), model, seeing)
    for line in sys.stdin:
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        begin = time.perf_counter()
        _read(tower, context, line.strip())
        print(time.perf_counter() - begin, flush=True)


def _read(tower: mtmd.mtmd_context_p, context: llama.llama_context_p, path: str) -> None:
    bitmap = mtmd.mtmd_helper_bitmap_init_from_file(tower, path.encode(), False)
    text = mtmd.mtmd_input_text(_PROMPT.encode(), len(_PROMPT.encode()), False, True)
    chunks = mtmd.mtmd_input_chunks_init()
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(tower, chunks, ctypes.byref(text), bitmaps, 1) == 0
    end = ctypes.c_int32()
    assert mtmd.mtmd_helper_eval_chunks(tower, context, chunks, 0, 0, _BATCH, True, ctypes.byref(end)) == 0
    llama.llama_get_logits_ith(context, -1)
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
