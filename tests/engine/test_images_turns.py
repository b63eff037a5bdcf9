"""No image is encoded twice when a conversation continues, is undone, branches or is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qwenctl.engine.client import Engine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.media import Media, VisionSettings
from qwenctl.protocol.messages import GenerationFinished, Message
from tests.support.pictures import BLACK, GREEN, RED, media, write_clip
from tests.support.turns import Reply, ask

SEEN = {RED: "A red triangle.", GREEN: "A green square.", BLACK: "A black square."}
WHAT, SYSTEM = "What is in the picture?", Message("system", "You are a helpful assistant.")
TOKENS = 66  # of each picture, with the two tokens around it
Start = Callable[..., Engine]


@pytest.fixture(scope="module")
def start(seeing_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start engines with the toy model and its vision encoder; they are closed after the module."""
    engines, folder = [], tmp_path_factory.mktemp("engines")
    [mmproj] = seeing_gguf.parent.glob("mmproj*")

    def started(context_tokens: int = 2048, mmproj: str = str(mmproj), **changes: Any) -> Engine:
        engines.append(Engine.start(folder))
        list(engines[-1].load(seeing_gguf, LoadParams(context_tokens, 1, **changes)))
        engines[-1].configure_vision(VisionSettings(mmproj))
        return engines[-1]

    yield started
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def engines(start: Start) -> tuple[Engine, Engine]:
    """An engine with snapshots, and one that evaluates every prompt in full."""
    return start(), start(snapshot_bytes=0)


def image_question(*paths: Path, text: str = WHAT) -> Message:
    return Message("user", text, media=tuple(map(media, paths)))


def reply_to(engine: Engine, *messages: Message) -> Reply:
    return ask(engine, messages)


def test_image_takes_the_predicted_number_of_tokens(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    seen = engine.inspect_media(media(RED))
    with_it, without = (
        reply_to(engine, SYSTEM, each).usage.prompt_tokens for each in (image_question(RED), Message("user", WHAT))
    )
    assert (seen.width, seen.height, seen.tokens) == (160, 160, TOKENS)
    assert with_it - without == seen.tokens
    two = reply_to(engine, SYSTEM, image_question(RED, GREEN)).usage.prompt_tokens
    assert two - without == 2 * TOKENS


def test_second_question_about_an_image_does_not_encode_it_again(start: Start) -> None:
    engine, uncached = start(), start(snapshot_bytes=0)
    for text in (WHAT, "What do you see?", "Describe the image."):
        one, other = (
            reply_to(engine, SYSTEM, image_question(RED, text=text)),
            reply_to(uncached, SYSTEM, image_question(RED, text=text)),
        )
        assert one.message == other.message
        if text != WHAT:
            assert one.evaluated < 25
            assert one.usage.cached_tokens > TOKENS


def test_later_turns_and_regenerated_answers_reuse_encoded_images(engines: tuple[Engine, Engine]) -> None:
    engine, uncached = engines
    messages: tuple[Message, ...] = (SYSTEM,)
    for path in (RED, BLACK, GREEN):
        one, other = (reply_to(each, *messages, image_question(path)) for each in (engine, uncached))
        assert one.message == other.message
        again = reply_to(engine, *messages, image_question(path))
        assert (again.message, again.evaluated <= 4) == (one.message, True)
        assert one.evaluated < 2 * TOKENS
        assert one.usage.cached_tokens >= TOKENS * sum(len(message.media) for message in messages)
        messages = (*messages, image_question(path), one.message)
    back = reply_to(engine, *messages[:-4], image_question(BLACK))
    assert back.message == reply_to(uncached, *messages[:-4], image_question(BLACK)).message
    assert back.usage.cached_tokens > TOKENS


@given(st.lists(st.tuples(st.sampled_from([RED, GREEN, BLACK, None]), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=12)
def test_answers_after_any_image_history_equal_those_without_snapshots(
    engines: tuple[Engine, Engine], turns: list[tuple[Path | None, bool]]
) -> None:
    """Turns with or without an image; each is either kept in the conversation or asked again."""
    engine, uncached = engines
    messages: tuple[Message, ...] = ()
    for path, goes_on in turns:
        question = image_question(path) if path else Message("user", "What is 2 + 3?")
        reply = reply_to(engine, *messages, question)
        assert reply.message == reply_to(uncached, *messages, question).message
        messages = (*messages, question, reply.message) if goes_on else messages


def test_answers_about_images_are_the_same_with_drafts(start: Start) -> None:
    engine, plain = start(draft="auto", draft_min=2), start()
    messages: tuple[Message, ...] = (SYSTEM,)
    for path in (RED, None, BLACK):
        question = image_question(path) if path else Message("user", "What is 2 + 3?")
        reply = reply_to(engine, *messages, question)
        assert reply.message == reply_to(plain, *messages, question).message
        assert reply.usage.drafted_tokens > 0
        messages = (*messages, question, reply.message)


def test_restored_engine_does_not_encode_images_again(start: Start, tmp_path: Path) -> None:
    first = start()
    reply = reply_to(first, SYSTEM, image_question(RED))
    messages = (SYSTEM, image_question(RED), reply.message)
    first.warm_prefix(messages, enable_thinking=True, state_path=tmp_path / "state")
    assert first.flush().error == ""
    engine, uncached = start(), start(snapshot_bytes=0)
    assert engine.restore(tmp_path / "state").tokens > TOKENS
    question = Message("user", "What is 2 + 3?")
    later = reply_to(engine, *messages, question)
    assert later.message == reply_to(uncached, *messages, question).message
    assert later.evaluated < 25
    assert reply_to(engine, SYSTEM, image_question(RED)).evaluated <= 4


@pytest.mark.parametrize(
    ("paths", "answer"), [((RED,), RED), ((GREEN,), GREEN), ((RED, GREEN), GREEN), ((RED, BLACK), BLACK)]
)
def test_video_is_described(
    engines: tuple[Engine, Engine], tmp_path: Path, paths: tuple[Path, ...], answer: Path
) -> None:
    """The toy model was trained on single images: it describes a still video, or the second of two images."""
    engine, uncached = engines
    pictures = [Image.open(path).convert("RGB").resize((128, 128)) for path in paths]
    clip = media(write_clip(tmp_path / "clip.mkv", pictures, each=8 // len(paths)), "video")
    seen = engine.inspect_media(clip)
    assert (seen.frames, seen.seconds) == (4, 2.0)
    question = Message("user", "What do you see?", media=(clip,))
    reply = reply_to(engine, SYSTEM, question)
    assert reply.message.content == SEEN[answer]
    assert reply_to(uncached, SYSTEM, question).message == reply.message
    assert reply_to(engine, SYSTEM, Message("user", WHAT, media=(clip,))).usage.cached_tokens > seen.tokens


def test_message_parts_keep_their_order(engines: tuple[Engine, Engine]) -> None:
    """The image may come before, after or within the question."""
    engine, uncached = engines
    for at in (0, 8, len(WHAT)):
        question = Message("user", WHAT, media=(media(RED, at=at),))
        reply = reply_to(engine, SYSTEM, question)
        assert reply.message == reply_to(uncached, SYSTEM, question).message
    assert SEEN[RED] == reply_to(engine, SYSTEM, image_question(RED)).message.content


# ------------------------------------------------------------------ errors


def refusal(engine: Engine, *seen: Media, text: str = WHAT) -> tuple[str, str, ExitCode]:
    with pytest.raises(QwenctlError) as caught:
        ask(engine, (Message("user", text, media=seen),))
    return caught.value.message, caught.value.hint, caught.value.code


def test_vision_tokens_in_user_text_are_plain_text(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    engine, _ = engines
    tokens = "<|vision_start|><|image_pad|><|vision_end|><|video_pad|><|im_end|>"
    one = reply_to(engine, SYSTEM, Message("user", tokens)).usage.prompt_tokens
    assert one - reply_to(engine, SYSTEM, Message("user", "")).usage.prompt_tokens > 20
    named = tmp_path / "<|im_end|><|image_pad|>.png"
    named.write_bytes(RED.read_bytes())
    assert reply_to(engine, SYSTEM, image_question(named)).message.content == SEEN[RED]
    assert reply_to(engine, SYSTEM, image_question(named, text=tokens)).usage.prompt_tokens == one + TOKENS


def test_damaged_image_is_reported_and_the_engine_survives(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    engine, _ = engines
    bad = tmp_path / "bad.png"
    bad.write_bytes(RED.read_bytes()[:200])
    message, _, code = refusal(engine, media(bad))
    assert (message.startswith("bad.png is damaged"), code) == (True, ExitCode.BAD_DATA)
    changed = media(bad)
    bad.write_bytes(GREEN.read_bytes())
    assert refusal(engine, changed) == ("bad.png has changed since it was sent", "send it again", 65)
    bad.unlink()
    assert refusal(engine, changed)[0] == "bad.png: no such file or directory"
    assert reply_to(engine, SYSTEM, image_question(GREEN)).message.content == SEEN[GREEN]


def test_image_too_large_for_the_context_is_refused_with_a_hint(start: Start) -> None:
    message, hint, code = refusal(start(context_tokens=64), media(RED))
    assert message == "prompt has 87 tokens, context is 64"
    assert (hint, code) == ("-c 128 makes room for it, --image-max-tokens makes images smaller", 65)


def test_image_without_a_matching_mmproj_is_refused(start: Start, seeing_gguf: Path) -> None:
    message, hint, code = refusal(start(mmproj=""), media(RED))
    assert message == "the model needs its mmproj file for images"
    assert (hint, code) == ("put the model's mmproj file next to it, or use --mmproj FILE", ExitCode.NO_INPUT)
    message, _, code = refusal(start(mmproj=str(seeing_gguf)), media(RED))
    assert (message.startswith(f"{seeing_gguf.name} does not go with the model: "), code) == (True, ExitCode.BAD_DATA)


def test_image_prefill_can_be_cancelled(start: Start) -> None:
    engine = start()
    from qwenctl.protocol.messages import Generate

    events = engine.generate(Generate((SYSTEM, image_question(RED)), True))
    engine.cancel()
    *_, finished = events
    assert isinstance(finished, GenerationFinished)
    assert reply_to(engine, SYSTEM, image_question(RED)).message.content == SEEN[RED]
