"""The vision tower of a model, in an mmproj file: pixels come in, embeddings go out, as libmtmd computes them.

The file is loaded when a picture is first looked at. libmtmd is given pictures of the size that they are to have, and
two frames of a clip at once, which it merges as the model was trained (`mtmd_bitmap_set_mergeable`).
"""

from __future__ import annotations

import ctypes
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from qwenctl.engine.llama.cancellation import CancelFlag
from qwenctl.engine.llama.log import LlamaLog
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.media_items import MediaCache, MediaItem
from qwenctl.models.gguf_check import model_fingerprint
from qwenctl.protocol.media import Media, MediaInfo, VisionSettings
from qwenctl.protocol.messages import RequestFailed

if TYPE_CHECKING:
    from qwenctl.engine.vision.images import Pixels


Embeddings = npt.NDArray[np.float32]  # [tokens of the view, width of the model]
_IMAGE = 1  # enum mtmd_input_chunk_type
_LARGEST_TOKENS = 16_384  # published; our own limits are below, and libmtmd must not make anything smaller again
_KEPT_BYTES = 256 << 20
_NO_MEMORY = ("alloc", "out of memory")  # in libmtmd's reasons
_NODES_AT_ONCE = 4  # of the graph, after which Ctrl-C is looked for


class VisionEncoder:
    """The vision tower in the file `mmproj` ("": there is none), for a loaded model; on a GPU if `uses_gpu`."""

    def __init__(
        self,
        mmproj: str,
        model: llama.llama_model_p,
        threads: int,
        interrupt: CancelFlag,
        log: LlamaLog,
        *,
        uses_gpu: bool = True,
    ) -> None:
        self._path, self._model, self._threads, self._uses_gpu = Path(mmproj), model, threads, uses_gpu
        self._interrupt, self._log = interrupt, log
        self._kept: OrderedDict[str, Embeddings] = OrderedDict()

    def check(self) -> None:
        """Raises RequestFailure if there is no mmproj file."""
        if not self._path.name:
            hint = "put the model's mmproj file next to it, or use --mmproj FILE"
            raise RequestError(RequestFailed("mmproj", "the model needs its mmproj file for images", hint))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the mmproj file. Raises RequestFailure if there is none."""
        self.check()
        return model_fingerprint(self._path)

    def embeddings(self, view: MediaItem, pixels: Callable[[MediaItem], Sequence[Pixels]]) -> Embeddings | None:
        """What `view` is to the model; None if interrupted. Raises RequestFailure."""
        if view.cache_key not in self._kept:
            found = self._encode(pixels(view), view)
            if found is None:
                return None
            self._kept[view.cache_key] = found
            while sum(each.nbytes for each in self._kept.values()) > _KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        self._kept.move_to_end(view.cache_key)
        return self._kept[view.cache_key]

    def _encode(self, frames: Sequence[Pixels], view: MediaItem) -> Embeddings | None:
        self._log.clear()
        with ExitStack() as owned:
            failed = self._mtmd.mtmd_encode_chunk(self._context, self._chunk(frames, view, owned))
            if self._interrupt:
                return None
            if failed:
                raise self._failure(view, "cannot be encoded")
            size = view.n_tokens * llama.llama_model_n_embd_inp(self._model)
            values = np.ctypeslib.as_array(self._mtmd.mtmd_get_output_embd(self._context), (size,))
            return values.reshape(view.n_tokens, -1).copy()

    def _chunk(self, frames: Sequence[Pixels], view: MediaItem, owned: ExitStack) -> Any:
        """What libmtmd encodes: the frames as one picture, which goes when `owned` ends. Raises RequestFailure."""
        mtmd, parts = self._mtmd, []
        for frame in frames:
            data = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            bitmap = mtmd.mtmd_bitmap_init(frame.shape[1], frame.shape[0], data)
            owned.callback(mtmd.mtmd_bitmap_free, bitmap)
            mtmd.mtmd_bitmap_set_mergeable(bitmap, len(frames) > 1)
            parts.append(mtmd.mtmd_input_part(None, bitmap))
        chunks = mtmd.mtmd_input_chunks_init()
        owned.callback(mtmd.mtmd_input_chunks_free, chunks)
        pointers = (ctypes.POINTER(mtmd.mtmd_input_part) * len(parts))(*map(ctypes.pointer, parts))
        if mtmd.mtmd_tokenize_from_parts(self._context, chunks, pointers, len(parts), False):
            raise self._failure(view, "cannot be prepared")
        found = [mtmd.mtmd_input_chunks_get(chunks, at) for at in range(mtmd.mtmd_input_chunks_size(chunks))]
        pictures = [chunk for chunk in found if mtmd.mtmd_input_chunk_get_type(chunk) == _IMAGE]
        tokens = [mtmd.mtmd_input_chunk_get_n_tokens(chunk) for chunk in pictures]
        if tokens != [view.n_tokens]:
            raise self._failure(view, f"becomes {tokens} tokens and not {view.n_tokens}")
        return pictures[0]

    @cached_property
    def _mtmd(self) -> Any:
        """libmtmd, which a chat without pictures does not load; its log goes where libllama's goes."""
        import llama_cpp.mtmd_cpp as mtmd

        mtmd.mtmd_helper_log_set(self._log.callback, ctypes.c_void_p())
        return mtmd

    @cached_property
    def _context(self) -> Any:
        """The loaded tower. Raises RequestFailure with libmtmd's reason."""
        mtmd = self._mtmd
        self._log.clear()
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = self._uses_gpu
        params.n_threads = self._threads
        params.print_timings = params.warmup = False
        params.image_min_tokens, params.image_max_tokens = 1, _LARGEST_TOKENS
        params.cb_eval = self._goes_on
        context = mtmd.mtmd_init_from_file(os.fsencode(self._path), self._model, params)
        if not context or not mtmd.mtmd_support_vision(context) or not mtmd.mtmd_decode_use_mrope(context):
            reason = self._log.reason() or "it is for another model"
            if any(words in reason.lower() for words in _NO_MEMORY):
                message = f"no memory for {self._path.name}: {reason}"
                raise RequestError(RequestFailed("memory", message, "a smaller context (-c) leaves room for it"))
            message = f"{self._path.name} does not go with the model: {reason}"
            raise RequestError(RequestFailed("model", message, "--mmproj FILE"))
        return context

    @cached_property
    def _goes_on(self) -> Any:
        """What ggml asks before each node of the graph (whether to stop after it), and after each at which it stops."""
        seen = 0

        def goes_on(_node: int, asks: bool, _user_data: int) -> bool:
            nonlocal seen
            seen += asks
            return seen % _NODES_AT_ONCE == 0 if asks else not self._interrupt

        return llama.ggml_backend_sched_eval_callback(goes_on)

    def _failure(self, view: MediaItem, why: str) -> RequestError:
        reason = self._log.reason()
        return RequestError(RequestFailed("media", f"{view.media.name} {why}" + (f": {reason}" if reason else "")))


class VisionState:
    """The eyes of a model. `open_tower` gives the vision tower in a file (""; there is none) when it is needed."""

    def __init__(self, open_tower: Callable[[str], VisionEncoder]) -> None:
        self._open_tower = open_tower
        self.configure(VisionSettings())

    def configure(self, settings: VisionSettings) -> None:
        """Look at pictures so from now on."""
        self._views, self._tower = MediaCache(settings), self._open_tower(settings.mmproj)

    @property
    def tower(self) -> str:
        """What identifies the vision tower. Raises RequestFailure if there is none."""
        return self._tower.fingerprint

    def views(self, media: Media) -> Sequence[MediaItem]:
        """What is seen of a picture or a clip. Raises RequestFailure."""
        self._tower.check()
        return self._views.items(media)

    def embeddings(self, view: MediaItem) -> Embeddings | None:
        """What a view is to the model; None if interrupted. Raises RequestFailure."""
        return self._tower.embeddings(view, self._views.pixels)

    def info(self, media: Media, tokens: int) -> MediaInfo:
        """A picture or a clip that costs `tokens`. Raises RequestFailure."""
        views = self.views(media)
        frames = len({frame for view in views for frame in view.frames})
        return MediaInfo(views[0].original.width, views[0].original.height, tokens, frames, self._views.seconds(media))
