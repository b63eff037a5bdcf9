"""libllama evaluates GGUF files in a child process, so its crashes cannot end the tests.

`python -m tests.support.libllama MODEL TOKENS OUT` writes all logits of each row of TOKENS.npz to OUT.npz, computed
with a float32 KV cache and without flash attention, like the reference logits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


def logits(model: Path, prompts: Iterable[Sequence[int]], folder: Path) -> list[Logits]:
    """The logits [tokens, vocabulary] of each prompt. Fails with libllama's log if it refuses the file."""
    tokens, out = folder / "tokens.npz", folder / "logits.npz"
    np.savez(tokens, *[np.asarray(prompt, np.int32) for prompt in prompts])
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.libllama", str(model), str(tokens), str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as saved:
        return [saved[name] for name in saved.files]


def squared_error(found: Logits, wanted: Logits) -> float:
    """The mean squared error, normalized by the mean square of `wanted`."""
    difference = found.astype(np.float64) - wanted
    return float((difference**2).mean() / (wanted.astype(np.float64) ** 2).mean())


def _main(model: str, tokens: str, out: str) -> None:
    import llama_cpp.llama_cpp as llama

    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    pointer = llama.llama_model_load_from_file(os.fsencode(model), params)
    assert pointer, "libllama does not load it"
    width = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(pointer))
    with np.load(tokens) as prompts:
        found = [_evaluate(llama, pointer, prompts[name], width) for name in prompts.files]
    np.savez(out, *found)


def _evaluate(llama: Any, pointer: Any, tokens: npt.NDArray[np.int32], width: int) -> Logits:
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.n_threads = params.n_threads_batch = 2
    params.type_k = params.type_v = 0  # GGML_TYPE_F32
    params.flash_attn_type = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama.llama_init_from_model(pointer, params)
    assert context, "libllama makes no context"
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for place, token in enumerate(tokens):
        batch.token[place], batch.pos[place], batch.logits[place] = int(token), place, 1
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
    assert llama.llama_decode(context, batch) == 0, "libllama does not evaluate it"
    rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (width,)).copy() for i in range(len(tokens))]
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    return np.stack(rows)


if __name__ == "__main__":
    _main(*sys.argv[1:])
