"""What all records of a batch begin with, where it was named: put back from the disk, or evaluated once and kept.

A context of many sequences comes in, and the sequence that shall hold the beginning; its tokens go out. How the records
use it is not known here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qwenctl.engine.batching.context import BatchContext
from qwenctl.engine.generation.prefill import keeping_step
from qwenctl.engine.kv.state_file import SavedState, UnusableState, read_state, write_state
from qwenctl.engine.model import Model
from qwenctl.engine.request_errors import RequestFailure
from qwenctl.protocol.batch import OpenBatch
from qwenctl.protocol.messages import Failed


def read_beginning(
    model: Model, context: BatchContext, sequence: int, request: OpenBatch, tell: Callable[[int], None]
) -> list[int]:
    """Have `sequence` hold what the prompts have in common that begin with the request's messages; its tokens.

    `tell` hears, after each batch, how many were evaluated. What cannot be written is no failure. Raises RequestFailure
    if they do not fit.
    """
    tokens = model.template.shared(request.messages, think=True).tokens
    if len(tokens) >= context.size:
        told = f"the prefix has {len(tokens):,} tokens, the room of a record is {context.size:,}"
        raise RequestFailure(Failed("context", told, f"-c {1 << len(tokens).bit_length()} makes room for it"))
    path, key = Path(request.keep), {**model.state_key, "context": "of many sequences"}
    held = kept = before = _put_back(context, sequence, path, key, tokens)
    step = keeping_step(len(tokens))
    while held < len(tokens):
        part = tokens[held : held + context.n_batch]
        context.evaluate([(sequence, held, part, False)])
        held += len(part)
        if held == len(tokens) or held - kept >= step:
            kept = held
            _keep(context, sequence, path, key, tokens[:held])
        tell(held - before)
    return tokens


def _put_back(context: BatchContext, sequence: int, path: Path, key: dict[str, str], tokens: Sequence[int]) -> int:
    """The tokens that `sequence` holds now, of those that were kept."""
    try:
        saved = read_state(path, key)
    except (UnusableState, OSError):
        return 0
    count = len(saved.tokens)
    if saved.tokens == tokens[:count] and context.put_back(sequence, saved.state):
        return count
    context.forget(sequence)
    return 0


def _keep(context: BatchContext, sequence: int, path: Path, key: dict[str, str], tokens: Sequence[int]) -> None:
    try:
        write_state(path, key, SavedState(list(tokens), context.state(sequence), {}))
    except OSError as error:
        sys.stderr.write(f"the state of the prefix is not kept: {error}\n")  # which is the log
