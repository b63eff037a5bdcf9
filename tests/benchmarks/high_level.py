"""An answer by llama-cpp-python's own class, streamed to a pipe.

`python -m tests.benchmarks.high_level MODEL CONTEXT THREADS TEMPERATURE TOP_K SEED MOST PROMPT`
"""

from __future__ import annotations

import sys
from typing import Any

from llama_cpp import Llama

_PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def _main(
    model: str, size: int, threads: int, temperature: float, top_k: int, seed: int, most: int, prompt: str
) -> None:
    llama = Llama(
        model, n_ctx=size, n_batch=2048, n_threads=threads, n_threads_batch=threads, flash_attn=True, verbose=False
    )
    pieces: Any = llama.create_completion(
        _PROMPT.format(prompt), max_tokens=most, stream=True,
        temperature=temperature, top_k=top_k, top_p=1.0, min_p=0.0, seed=seed,
    )  # fmt: skip
    for piece in pieces:
        sys.stdout.write(piece["choices"][0]["text"])
        sys.stdout.flush()


if __name__ == "__main__":
    model, size, threads, temperature, top_k, seed, most, prompt = sys.argv[1:]
    _main(model, int(size), int(threads), float(temperature), int(top_k), int(seed), int(most), prompt)
