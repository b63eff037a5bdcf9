"""Embeddings, tokens, positions and logits of images and videos match the reference implementation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.media import Media, VisionSettings
from qwenctl.protocol.messages import Message
from tests.support.libllama import squared_error
from tests.support.loaded_model import loaded
from tests.support.own_process import Late, late
from tests.support.paths import DATA
from tests.support.pictures import media, write_clip

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

pytestmark = pytest.mark.own_process
llama = late("llama_cpp.llama_cpp")
MRopeOffsets = late("qwenctl.engine.kv.mrope:MRopeOffsets")

# A video of three frames at four a second, and an image; made with transformers in float32, like vision.npz.
with np.load(DATA / "expected" / "seen.npz") as _file:
    SEEN = dict(_file)
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def folder(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model in F32 and its vision encoder."""
    folder = tmp_path_factory.mktemp("exact")
    convert(make_plan(toy, folder / "toy.gguf", QuantizeOptions("F32", vision_type="F32")), threads=2)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    settings = LoadParams(256, 1, cache_type_k="f32", cache_type_v="f32", flash_attention="off")
    return Late(lambda: loaded(folder / "toy.gguf", settings))


def save_image(folder: Path, name: str, pixels: npt.NDArray[np.uint8]) -> Media:
    Image.fromarray(pixels).save(folder / name)
    return media(folder / name)


def clip(folder: Path) -> Media:
    return media(write_clip(folder / "clip.mkv", [Image.fromarray(frame) for frame in SEEN["clip_frames"]]), "video")


def configure_vision(model: LoadedModel, folder: Path) -> None:
    """Set up vision so that images are not enlarged and videos are sampled at four frames a second."""
    [mmproj] = folder.glob("mmproj*")
    model.vision.configure(VisionSettings(str(mmproj), image_min_tokens=1, video_fps=4))


def embed(model: LoadedModel, seen: Media) -> npt.NDArray[np.float32]:
    found = map(model.vision.embeddings, model.vision.media_items(seen))
    return np.concatenate([each for each in found if each is not None])


def evaluate(model: LoadedModel, messages: list[Message]) -> tuple[list[int], list[int], npt.NDArray[np.float32]]:
    """The prompt's tokens, their temporal positions, and the logits of the next token [vocabulary]."""
    prompt = model.template.prompt(messages, think=True)
    model.sequence.clear()
    list(model.sequence.prefill(prompt.tokens, prompt.branch_points, 7, prompt.media_items))
    logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(model.context, -1), (model.vocabulary_size,)).copy()
    offsets = MRopeOffsets()
    offsets.spans = list(model.sequence.export_state().mrope_spans)
    firsts = {at + more: at for at, view in prompt.media_items.items() for more in range(view.n_tokens)}
    return prompt.tokens, [offsets.position(firsts.get(at, at)) for at in range(len(prompt.tokens))], logits


@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_image_embeddings_match_the_reference(
    model: LoadedModel, folder: Path, toy: Path, tmp_path: Path, kind: str
) -> None:
    if kind != "F32":
        convert(make_plan(toy, tmp_path / "toy.gguf", QuantizeOptions("F16", vision_type=kind)), threads=2)
        folder = tmp_path
    configure_vision(model, folder)
    with np.load(DATA / "expected" / "vision.npz") as reference:
        for number in range(3):
            seen = save_image(tmp_path, f"{number}.png", reference[f"image{number}"])
            assert squared_error(embed(model, seen), reference[f"embedding{number}"]) < 1e-6


def test_frame_pair_embeddings_match_the_reference(model: LoadedModel, folder: Path, tmp_path: Path) -> None:
    configure_vision(model, folder)
    found = embed(model, clip(tmp_path))
    assert found.shape == SEEN["clip_embedding"].shape
    assert squared_error(found, SEEN["clip_embedding"]) < 1e-6


@pytest.mark.parametrize("what", ["clip", "picture"])
def test_tokens_positions_and_logits_match_the_reference(
    model: LoadedModel, folder: Path, tmp_path: Path, what: str
) -> None:
    configure_vision(model, folder)
    seen = clip(tmp_path) if what == "clip" else save_image(tmp_path, "picture.png", SEEN["picture"])
    tokens, positions, logits = evaluate(model, [Message("user", QUESTION, media=(seen,))])
    pads = {model.tokenizer.tokenize_template(f"<|{kind}_pad|>")[0] for kind in ("image", "video")}
    wanted = [-1 if token in pads else token for token in SEEN[f"{what}_tokens"].tolist()]
    assert [max(token, -1) for token in tokens] == wanted
    assert positions == SEEN[f"{what}_positions"][0].tolist()
    assert squared_error(logits, SEEN[f"{what}_logits"]) < 1e-8
