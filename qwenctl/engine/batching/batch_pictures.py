"""Pictures in a batch: all of a prompt up to the end of its last picture, evaluated in the sequence of its record.

What follows is text and is evaluated beside other records. Embeddings come from the model's sight, which keeps those of
the last pictures; when this happens is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

from qwenctl.engine.batching.context import BatchContext
from qwenctl.engine.batching.prefix_cache import Ints
from qwenctl.engine.kv.mrope import Folds, picture_batches
from qwenctl.engine.request_errors import RequestFailure
from qwenctl.engine.vision.media_items import View
from qwenctl.engine.vision.sight import Sight
from qwenctl.protocol.messages import Failed


def read_pictures(
    context: BatchContext, sight: Sight, sequence: int, tokens: Ints, views: Mapping[int, View], done: int
) -> tuple[int, int]:
    """Evaluate `tokens` from `done` to the end of the last picture; how many are done, and how many positions saved.

    Raises RequestFailure for a picture that cannot be seen.
    """
    folds = Folds()
    for at, view in sorted(views.items()):
        while done < at:
            end = min(at, done + context.n_batch)
            context.evaluate([(sequence, folds.position(done), tokens[done:end], False)])
            done = end
        embeddings = sight.embeddings(view)
        if embeddings is None:
            raise RequestFailure(Failed("cancelled", "stopped"))
        for batch in picture_batches(view, embeddings, folds.position(at), context.n_batch, sequence):
            context.decode(batch)
        done = at + view.n_tokens
        folds.add(done, view)
    return done, done - folds.position(done)
