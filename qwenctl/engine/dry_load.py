"""The child process that reports which buffers a model's graphs would need, without reading any weights.

`python -m qwenctl.engine.dry_load` reads one `Load` message from standard input and prints JSON: the bytes of the
compute buffers by device. Weights and context are not allocated (`no_alloc`), so their sizes are not reported.
"""

from __future__ import annotations

import json
import sys

import llama_cpp.llama_cpp as llama

from qwenctl.engine.llama.callbacks import LlamaLog, memory_use
from qwenctl.engine.llama.device_params import device_by_buffer_type
from qwenctl.engine.llama.weights import load_weights
from qwenctl.engine.model import context_params, model_params, resolve_context_size
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.speculative.draft_setup import draft_limits, reserve_draft_outputs
from qwenctl.protocol.codec import decode
from qwenctl.protocol.load import Load

_NO_MAPPING = 0  # libllama aborts if a file is mapped but not allocated


def compute_bytes(request: Load, log: LlamaLog) -> dict[str, int]:
    """Bytes of the compute buffers by device. Raises RequestError, or ValueError with llama.cpp's reason."""
    llama.llama_backend_init()
    params, alive = model_params(request.settings)
    params.no_alloc, params.load_mode = True, _NO_MAPPING
    weights = load_weights(request.path, params, log)
    del alive
    if weights is None:
        raise ValueError(log.reason())
    model = weights.pointer
    size = resolve_context_size(request.settings, llama.llama_model_n_ctx_train(model))
    context_parameters = context_params(request.settings, size)
    limits = draft_limits(request.settings, context_parameters.n_batch, has_head=weights.has_mtp)
    reserve_draft_outputs(context_parameters, limits)
    context = llama.llama_init_from_model(model, context_parameters)
    if context is None:
        raise ValueError(log.reason())
    return {use.name: use.compute for use in memory_use(log.sizes(), device_by_buffer_type())}


def main() -> None:
    """Answer one request; on failure exit with code 1 and the reason on standard error."""
    log = LlamaLog()
    try:
        sys.stdout.write(json.dumps(compute_bytes(decode(sys.stdin.buffer.readline(), Load), log)))
    except (RequestError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
