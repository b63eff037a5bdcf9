"""What all records of a batch begin with, where it was named: put back from the disk, or evaluated once and kept.

A context of many sequences comes in, and the sequence that shall hold the beginning; its tokens go out. How the records
use it is not known here.
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
    model: LoadedModel, context: MultiSequenceContext, sequence: int, request: StartBatch, tell: Callable[[int], None]
) -> list[int]:
    """Have `sequence` hold what the prompts have in common that begin with the request's messages; its tokens.

    `tell` hears, after each batch, how many were evaluated. What cannot be written is no failure. Raises RequestFailure
    if they do not fit.
    """
    tokens = model.template.shared_prefix(request.prefix_messages, think=True).tokens
    if len(tokens) >= context.size:
        told = f"the prefix has {len(tokens):,} tokens, a record can have {context.size:,}"
        raise RequestError(RequestFailed("context", told, f"-c {1 << len(tokens).bit_length()} makes room for it"))
    path, key = Path(request.keep), {**model.state_compat_key, "context": "of many sequences"}
    held = kept = before = _put_back(context, sequence, path, key, tokens)
    step = checkpoint_interval(len(tokens))
    while held < len(tokens):
        part = tokens[held : held + context.n_batch]
        context.evaluate([(sequence, held, part, False)])
        held += len(part)
        if held == len(tokens) or held - kept >= step:
            kept = held
            _keep(context, sequence, path, key, tokens[:held])
        tell(held - before)
    return tokens


def _put_back(
    context: MultiSequenceContext, sequence: int, path: Path, key: dict[str, str], tokens: Sequence[int]
) -> int:
    """The tokens that `sequence` holds now, of those that were kept."""
    try:
        saved = read_state(path, key)
    except (StateMismatch, OSError):
        return 0
    count = len(saved.tokens)
    if saved.tokens == tokens[:count] and context.set_state(sequence, saved.state):
        return count
    context.clear_sequence(sequence)
    return 0


def _keep(context: MultiSequenceContext, sequence: int, path: Path, key: dict[str, str], tokens: Sequence[int]) -> None:
    try:
        write_state(path, key, SequenceState(list(tokens), context.state(sequence), {}))
    except OSError as error:
        sys.stderr.write(f"the state of the prefix was not saved: {error}\n")  # which is the log


def prefill_images(
    context: MultiSequenceContext,
    sight: VisionState,
    sequence: int,
    tokens: Ints,
    views: Mapping[int, MediaItem],
    done: int,
) -> tuple[int, int]:
    """Evaluate `tokens` from `done` to the end of the last picture; how many are done, and how many positions saved.

    Raises RequestFailure for a picture that cannot be seen.
    """
    folds = MRopeOffsets()
    for at, view in sorted(views.items()):
        while done < at:
            end = min(at, done + context.n_batch)
            context.evaluate([(sequence, folds.position(done), tokens[done:end], False)])
            done = end
        embeddings = sight.embeddings(view)
        if embeddings is None:
            raise RequestError(RequestFailed("cancelled", "stopped"))
        for batch in image_batches(view, embeddings, folds.position(at), context.n_batch, sequence):
            context.decode(batch)
        done = at + view.n_tokens
        folds.add(done, view)
    return done, done - folds.position(done)
