"""The logits and memory use of a model loaded with given parameters, computed in a child process.

`placed_logits(path, settings)` returns both. A child process is needed because ggml never forgets an RPC device, and
every later load of the same process uses it.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

from qwenctl.protocol.codec import decode, encode
from qwenctl.protocol.load import Load, LoadParams
from qwenctl.protocol.placement import MemoryUse
from tests.support.paths import ROOT

PROMPT = "What is the capital of France? And what is two and two?"


def placed_logits(path: Path, settings: LoadParams, timeout_s: float = 120) -> tuple[bytes, tuple[MemoryUse, ...]]:
    """The float32 logits after a prompt and after one more token, as bytes, and the use of each memory."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.placed_logits"],
        input=encode(Load(str(path), settings)),
        capture_output=True,
        cwd=ROOT,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode("utf-8", "replace")[-2000:])
    report = json.loads(done.stdout)
    return bytes.fromhex(report["logits"]), tuple(MemoryUse(**one) for one in report["memory"])


def main() -> None:
    """Load the model, evaluate the prompt, and print the result."""
    import llama_cpp.llama_cpp as llama

    from qwenctl.engine.llama.callbacks import CancelFlag, LlamaLog
    from qwenctl.engine.model import load_model

    request, log = decode(sys.stdin.buffer.readline(), Load), LlamaLog()
    model = load_model(request, CancelFlag(), log, lambda _: None)
    size = 4 * model.vocabulary_size
    logits = b""
    for tokens in (model.tokenizer.tokenize_text(PROMPT), [5]):
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        if llama.llama_decode(model.context, llama.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError("llama_decode failed")
        logits += ctypes.string_at(llama.llama_get_logits_ith(model.context, -1), size)
    memory = [vars(one) for one in model.loaded.memory]
    sys.stdout.write(json.dumps({"logits": logits.hex(), "memory": memory}))


if __name__ == "__main__":
    main()
