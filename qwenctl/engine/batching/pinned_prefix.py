"""The prefix that all requests of a batch share, if one was named; and the images of a single request.

A context with many sequences comes in; the prefix is restored from disk, or evaluated once and saved, and its tokens go
out. How requests use it is not known here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qwenctl.engine.batching.context import MultiSequenceContext
from qwenctl.engine.batching.prefix_cache import Ints
from qwenctl.engine.generation.prefill import checkpoint_interval
from qwenctl.engine.kv.mrope import MRopeOffsets, image_batches
from qwenctl.engine.kv.state_file import SequenceState, StateMismatch, read_state, write_state
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.encoder import VisionState
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.batch import StartBatch
from qwenctl.protocol.messages import RequestFailed


def prefill_pinned_prefix(
    model: LoadedModel, context: MultiSequenceContext, sequence: int, request: StartBatch, report: Callable[[int], None]
) -> list[int]:
    """Evaluate, in `sequence`, the common prefix of all prompts that start with the request's messages.

    Returns the tokens of the prefix. After each batch, `report` receives the number of tokens evaluated so far. A state
    that cannot be written is no error. Raises RequestError if the prefix does not fit.
    """
    tokens = model.template.shared_prefix(request.prefix_messages, think=True).tokens
    if len(tokens) >= context.size:
        message = f"the prefix has {len(tokens):,} tokens, a record can have {context.size:,}"
        raise RequestError(RequestFailed("context", message, f"-c {1 << len(tokens).bit_length()} makes room for it"))
    path, key = Path(request.state_path), {**model.state_compat_key, "context": "of many sequences"}
    n_evaluated = n_saved = n_restored = _restore_prefix(context, sequence, path, key, tokens)
    step = checkpoint_interval(len(tokens))
    while n_evaluated < len(tokens):
        part = tokens[n_evaluated : n_evaluated + context.n_batch]
        context.evaluate([(sequence, n_evaluated, part, False)])
        n_evaluated += len(part)
        if n_evaluated == len(tokens) or n_evaluated - n_saved >= step:
            n_saved = n_evaluated
            _save_prefix(context, sequence, path, key, tokens[:n_evaluated])
        report(n_evaluated - n_restored)
    return tokens


def _restore_prefix(
    context: MultiSequenceContext, sequence: int, path: Path, key: dict[str, str], tokens: Sequence[int]
) -> int:
    """Restore the saved state of a prefix of `tokens`; return the number of tokens restored, or 0."""
    try:
        saved = read_state(path, key)
    except (StateMismatch, OSError):
        return 0
    # A state of an interrupted prefill holds only the beginning of the prefix.
    count = len(saved.tokens)
    if saved.tokens == tokens[:count] and context.set_state(sequence, saved.state):
        return count
    context.clear_sequence(sequence)
    return 0


def _save_prefix(
    context: MultiSequenceContext, sequence: int, path: Path, key: dict[str, str], tokens: Sequence[int]
) -> None:
    """Save the state of the prefix; a failure is only logged."""
    try:
        write_state(path, key, SequenceState(list(tokens), context.state(sequence), {}))
    except OSError as error:
        sys.stderr.write(f"the state of the prefix was not saved: {error}\n")  # standard error is the log


def prefill_images(
    context: MultiSequenceContext,
    vision: VisionState,
    sequence: int,
    tokens: Ints,
    media_items: Mapping[int, MediaItem],
    done: int,
) -> tuple[int, int]:
    """Evaluate `tokens` from `done` to the end of the last image.

    Returns how many tokens are done, and how many M-RoPE positions the images save. Raises RequestError for an image
    that cannot be used.
    """
    mrope = MRopeOffsets()
    for at, item in sorted(media_items.items()):
        while done < at:
            end = min(at, done + context.n_batch)
            context.evaluate([(sequence, mrope.position(done), tokens[done:end], False)])
            done = end
        embeddings = vision.embeddings(item)
        if embeddings is None:
            raise RequestError(RequestFailed("cancelled", "stopped"))
        for batch in image_batches(item, embeddings, mrope.position(at), context.n_batch, sequence):
            context.decode(batch)
        done = at + item.n_tokens
        mrope.add(done, item)
    return done, done - mrope.position(done)
