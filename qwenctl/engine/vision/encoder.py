"""The vision encoder of a model, from an mmproj file: pixels come in, embeddings go out, as libmtmd computes them.

The file is loaded when the first image is encoded. libmtmd gets images in their final size, and the two frames of a
video item together, which it merges as in training (`mtmd_bitmap_set_mergeable`).
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

from qwenctl.engine.llama.callbacks import CancelFlag, LlamaLog
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.media_items import MediaCache, MediaItem
from qwenctl.errors import quote
from qwenctl.models.gguf_check import model_fingerprint
from qwenctl.protocol.media import Media, MediaInfo, VisionSettings
from qwenctl.protocol.messages import RequestFailed

if TYPE_CHECKING:
    from qwenctl.engine.vision.images import Pixels


Embeddings = npt.NDArray[np.float32]  # [tokens of the item, width of the model]
_IMAGE = 1  # enum mtmd_input_chunk_type
_MAX_IMAGE_TOKENS = 16_384  # the published limit; ours are lower, and libmtmd must not resize anything again
_CACHE_BYTES = 256 << 20
_NO_MEMORY = ("alloc", "out of memory")  # substrings of libmtmd's error messages
_NODES_PER_CHECK = 4  # graph nodes between two checks for a cancellation


class VisionEncoder:
    """The vision encoder in the file `mmproj` ("": there is none) of a loaded model; on a GPU if `uses_gpu`."""

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
        self._cache: OrderedDict[str, Embeddings] = OrderedDict()

    def check(self) -> None:
        """Raises RequestError if there is no mmproj file."""
        if not self._path.name:
            hint = "put the model's mmproj file next to it, or use --mmproj FILE"
            raise RequestError(RequestFailed("mmproj", "the model needs its mmproj file for images", hint))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the mmproj file. Raises RequestError if there is none."""
        self.check()
        return model_fingerprint(self._path)

    def embeddings(self, item: MediaItem, pixels: Callable[[MediaItem], Sequence[Pixels]]) -> Embeddings | None:
        """The embeddings of `item`, cached; `pixels` decodes it on a miss. None if cancelled. Raises RequestError."""
        if item.cache_key not in self._cache:
            embeddings = self._encode(pixels(item), item)
            if embeddings is None:
                return None
            self._cache[item.cache_key] = embeddings
            # Evict the least recently used embeddings, but never the new ones.
            while sum(each.nbytes for each in self._cache.values()) > _CACHE_BYTES and len(self._cache) > 1:
                self._cache.popitem(last=False)
        self._cache.move_to_end(item.cache_key)
        return self._cache[item.cache_key]

    def _encode(self, frames: Sequence[Pixels], item: MediaItem) -> Embeddings | None:
        """Encode one image, or the two frames of a video item; None if cancelled. Raises RequestError."""
        self._log.clear()
        with ExitStack() as resources:
            failed = self._mtmd.mtmd_encode_chunk(self._context, self._chunk(frames, item, resources))
            if self._interrupt:
                return None
            if failed:
                raise self._media_error(item, "cannot be encoded")
            size = item.n_tokens * llama.llama_model_n_embd_inp(self._model)
            # The array is libmtmd's own buffer, which the next image overwrites: copy it.
            values = np.ctypeslib.as_array(self._mtmd.mtmd_get_output_embd(self._context), (size,))
            return values.reshape(item.n_tokens, -1).copy()

    def _chunk(self, frames: Sequence[Pixels], item: MediaItem, resources: ExitStack) -> Any:
        """The libmtmd chunk of the frames, as one image; `resources` frees it. Raises RequestError."""
        mtmd, parts = self._mtmd, []
        for frame in frames:
            data = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            bitmap = mtmd.mtmd_bitmap_init(frame.shape[1], frame.shape[0], data)
            resources.callback(mtmd.mtmd_bitmap_free, bitmap)
            mtmd.mtmd_bitmap_set_mergeable(bitmap, len(frames) > 1)
            parts.append(mtmd.mtmd_input_part(None, bitmap))
        chunks = mtmd.mtmd_input_chunks_init()
        resources.callback(mtmd.mtmd_input_chunks_free, chunks)
        pointers = (ctypes.POINTER(mtmd.mtmd_input_part) * len(parts))(*map(ctypes.pointer, parts))
        if mtmd.mtmd_tokenize_from_parts(self._context, chunks, pointers, len(parts), False):
            raise self._media_error(item, "cannot be prepared")
        all_chunks = [mtmd.mtmd_input_chunks_get(chunks, at) for at in range(mtmd.mtmd_input_chunks_size(chunks))]
        image_chunks = [chunk for chunk in all_chunks if mtmd.mtmd_input_chunk_get_type(chunk) == _IMAGE]
        tokens = [mtmd.mtmd_input_chunk_get_n_tokens(chunk) for chunk in image_chunks]
        if tokens != [item.n_tokens]:
            raise self._media_error(item, f"becomes {tokens} tokens and not {item.n_tokens}")
        return image_chunks[0]

    @cached_property
    def _mtmd(self) -> Any:
        """libmtmd, loaded only when images are used; it logs to the same place as libllama."""
        import llama_cpp.mtmd_cpp as mtmd

        mtmd.mtmd_helper_log_set(self._log.callback, ctypes.c_void_p())
        return mtmd

    @cached_property
    def _context(self) -> Any:
        """The loaded encoder. Raises RequestError with libmtmd's reason."""
        mtmd = self._mtmd
        self._log.clear()
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = self._uses_gpu
        params.n_threads = self._threads
        params.print_timings = params.warmup = False
        params.image_min_tokens, params.image_max_tokens = 1, _MAX_IMAGE_TOKENS
        params.cb_eval = self._eval_callback
        context = mtmd.mtmd_init_from_file(os.fsencode(self._path), self._model, params)
        if not context or not mtmd.mtmd_support_vision(context) or not mtmd.mtmd_decode_use_mrope(context):
            reason = self._log.reason() or "it is for another model"
            if any(text in reason.lower() for text in _NO_MEMORY):
                message = f"no memory for {self._path.name}: {reason}"
                raise RequestError(RequestFailed("memory", message, "a smaller context (-c) leaves room for it"))
            message = f"{self._path.name} does not go with the model: {reason}"
            raise RequestError(RequestFailed("model", message, "--mmproj FILE"))
        return context

    @cached_property
    def _eval_callback(self) -> Any:
        """ggml's evaluation callback, which makes the encoding cancelable.

        ggml calls it before each node, to ask whether to stop there (`asks`), and after each node at which it stopped,
        to ask whether to continue. Stopping at every node would cost speed, so it stops at every fourth.
        """
        n_asked = 0

        def continues(_node: int, asks: bool, _user_data: int) -> bool:
            nonlocal n_asked
            n_asked += asks
            return n_asked % _NODES_PER_CHECK == 0 if asks else not self._interrupt

        return llama.ggml_backend_sched_eval_callback(continues)

    def _media_error(self, item: MediaItem, why: str) -> RequestError:
        reason = self._log.reason()
        return RequestError(RequestFailed("media", f"{item.media.name} {why}" + (f": {reason}" if reason else "")))


class VisionState:
    """The vision settings of a loaded model, its media cache and its encoder.

    `open_encoder` makes the encoder for an mmproj file ("": there is none).
    """

    def __init__(self, open_encoder: Callable[[str], VisionEncoder]) -> None:
        self._open_encoder = open_encoder
        self.configure(VisionSettings())

    def configure(self, settings: VisionSettings) -> None:
        """Use `settings` from now on; the media cache starts empty."""
        self._choices = settings.mmproj_choices
        self._cache, self._encoder = MediaCache(settings), self._open_encoder(settings.mmproj)

    @property
    def encoder_fingerprint(self) -> str:
        """The fingerprint of the vision encoder. Raises RequestError if there is none."""
        self._check()
        return self._encoder.fingerprint

    def media_items(self, media: Media) -> Sequence[MediaItem]:
        """The media items of an image or a video. Raises RequestError."""
        self._check()
        return self._cache.items(media)

    def _check(self) -> None:
        """Raises RequestError if there is no mmproj file, or the user must choose one."""
        if self._choices:
            message = "several mmproj files match the model: choose one for images"
            raise RequestError(RequestFailed("setting", message, f"--mmproj {quote(Path(self._choices[0]))}"))
        self._encoder.check()

    def embeddings(self, item: MediaItem) -> Embeddings | None:
        """The embeddings of an item; None if cancelled. Raises RequestError."""
        return self._encoder.embeddings(item, self._cache.pixels)

    def info(self, media: Media, tokens: int) -> MediaInfo:
        """The size, frames and seconds of an image or video that takes `tokens` in the prompt. Raises RequestError."""
        items = self.media_items(media)
        frames = len({frame for item in items for frame in item.frames})
        return MediaInfo(items[0].original.width, items[0].original.height, tokens, frames, self._cache.seconds(media))
