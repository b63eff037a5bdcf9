"""No picture is looked at twice: conversations go on, go back, branch and are kept with what is seen in them."""

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
    """Starts engines with the toy in them, and its eyes; they end with the tests."""
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
    """One that remembers, and one that reads everything anew."""
    return start(), start(snapshot_bytes=0)


def shown(*paths: Path, text: str = WHAT) -> Message:
    return Message("user", text, media=tuple(map(media, paths)))


def asked(engine: Engine, *messages: Message) -> Reply:
    return ask(engine, messages)


def test_a_picture_costs_what_is_said_beforehand(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    seen = engine.inspect_media(media(RED))
    with_it, without = (asked(engine, SYSTEM, each).usage.prompt_tokens for each in (shown(RED), Message("user", WHAT)))
    assert (seen.width, seen.height, seen.tokens) == (160, 160, TOKENS)
    assert with_it - without == seen.tokens
    two = asked(engine, SYSTEM, shown(RED, GREEN)).usage.prompt_tokens
    assert two - without == 2 * TOKENS


def test_another_question_about_a_picture_does_not_look_again(start: Start) -> None:
    engine, forgetful = start(), start(snapshot_bytes=0)
    for text in (WHAT, "What do you see?", "Describe the image."):
        one, other = asked(engine, SYSTEM, shown(RED, text=text)), asked(forgetful, SYSTEM, shown(RED, text=text))
        assert one.message == other.message
        if text != WHAT:
            assert one.evaluated < 25
            assert one.usage.cached_tokens > TOKENS


def test_later_turns_answer_again_and_other_pictures(engines: tuple[Engine, Engine]) -> None:
    engine, forgetful = engines
    messages: tuple[Message, ...] = (SYSTEM,)
    for path in (RED, BLACK, GREEN):
        one, other = (asked(each, *messages, shown(path)) for each in (engine, forgetful))
        assert one.message == other.message
        again = asked(engine, *messages, shown(path))
        assert (again.message, again.evaluated <= 4) == (one.message, True)
        assert one.evaluated < 2 * TOKENS
        assert one.usage.cached_tokens >= TOKENS * sum(len(message.media) for message in messages)
        messages = (*messages, shown(path), one.message)
    back = asked(engine, *messages[:-4], shown(BLACK))
    assert back.message == asked(forgetful, *messages[:-4], shown(BLACK)).message
    assert back.usage.cached_tokens > TOKENS


@given(st.lists(st.tuples(st.sampled_from([RED, GREEN, BLACK, None]), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=12)
def test_whatever_was_seen_before_makes_no_difference(
    engines: tuple[Engine, Engine], turns: list[tuple[Path | None, bool]]
) -> None:
    """Turns with a picture or without, each asked once more or left as it is."""
    engine, forgetful = engines
    messages: tuple[Message, ...] = ()
    for path, goes_on in turns:
        question = shown(path) if path else Message("user", "What is 2 + 3?")
        reply = asked(engine, *messages, question)
        assert reply.message == asked(forgetful, *messages, question).message
        messages = (*messages, question, reply.message) if goes_on else messages


def test_drafts_change_nothing_of_what_is_said_about_pictures(start: Start) -> None:
    engine, plain = start(draft="auto", draft_min=2), start()
    messages: tuple[Message, ...] = (SYSTEM,)
    for path in (RED, None, BLACK):
        question = shown(path) if path else Message("user", "What is 2 + 3?")
        reply = asked(engine, *messages, question)
        assert reply.message == asked(plain, *messages, question).message
        assert reply.usage.drafted_tokens > 0
        messages = (*messages, question, reply.message)


def test_another_engine_goes_on_without_looking_again(start: Start, tmp_path: Path) -> None:
    first = start()
    reply = asked(first, SYSTEM, shown(RED))
    messages = (SYSTEM, shown(RED), reply.message)
    first.warm_prefix(messages, think=True, keep=tmp_path / "state")
    assert first.flush().error == ""
    engine, forgetful = start(), start(snapshot_bytes=0)
    assert engine.restore(tmp_path / "state").tokens > TOKENS
    question = Message("user", "What is 2 + 3?")
    later = asked(engine, *messages, question)
    assert later.message == asked(forgetful, *messages, question).message
    assert later.evaluated < 25
    assert asked(engine, SYSTEM, shown(RED)).evaluated <= 4


@pytest.mark.parametrize(
    ("paths", "answer"), [((RED,), RED), ((GREEN,), GREEN), ((RED, GREEN), GREEN), ((RED, BLACK), BLACK)]
)
def test_a_clip_is_seen(engines: tuple[Engine, Engine], tmp_path: Path, paths: tuple[Path, ...], answer: Path) -> None:
    """As far as the toy can, which was trained on single pictures: one that stands still, and the last of two."""
    engine, forgetful = engines
    pictures = [Image.open(path).convert("RGB").resize((128, 128)) for path in paths]
    clip = media(write_clip(tmp_path / "clip.mkv", pictures, each=8 // len(paths)), "video")
    seen = engine.inspect_media(clip)
    assert (seen.frames, seen.seconds) == (4, 2.0)
    question = Message("user", "What do you see?", media=(clip,))
    reply = asked(engine, SYSTEM, question)
    assert reply.message.content == SEEN[answer]
    assert asked(forgetful, SYSTEM, question).message == reply.message
    assert asked(engine, SYSTEM, Message("user", WHAT, media=(clip,))).usage.cached_tokens > seen.tokens


def test_parts_stand_in_the_order_of_the_message(engines: tuple[Engine, Engine]) -> None:
    """The picture before the question, after it, or between two texts: the same tokens in another order."""
    engine, forgetful = engines
    for at in (0, 8, len(WHAT)):
        question = Message("user", WHAT, media=(media(RED, at=at),))
        reply = asked(engine, SYSTEM, question)
        assert reply.message == asked(forgetful, SYSTEM, question).message
    assert SEEN[RED] == asked(engine, SYSTEM, shown(RED)).message.content


# ------------------------------------------------------------------ what cannot be


def refused(engine: Engine, *seen: Media, text: str = WHAT) -> tuple[str, str, ExitCode]:
    with pytest.raises(QwenctlError) as caught:
        ask(engine, (Message("user", text, media=seen),))
    return caught.value.message, caught.value.hint, caught.value.code


def test_vision_tokens_of_a_person_are_text(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    engine, _ = engines
    tokens = "<|vision_start|><|image_pad|><|vision_end|><|video_pad|><|im_end|>"
    one = asked(engine, SYSTEM, Message("user", tokens)).usage.prompt_tokens
    assert one - asked(engine, SYSTEM, Message("user", "")).usage.prompt_tokens > 20
    named = tmp_path / "<|im_end|><|image_pad|>.png"
    named.write_bytes(RED.read_bytes())
    assert asked(engine, SYSTEM, shown(named)).message.content == SEEN[RED]
    assert asked(engine, SYSTEM, shown(named, text=tokens)).usage.prompt_tokens == one + TOKENS


def test_a_bad_picture_is_told_and_the_engine_goes_on(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    engine, _ = engines
    bad = tmp_path / "bad.png"
    bad.write_bytes(RED.read_bytes()[:200])
    message, _, code = refused(engine, media(bad))
    assert (message.startswith("bad.png is damaged"), code) == (True, ExitCode.BAD_DATA)
    changed = media(bad)
    bad.write_bytes(GREEN.read_bytes())
    assert refused(engine, changed) == ("bad.png has changed since it was sent", "send it again", 65)
    bad.unlink()
    assert refused(engine, changed)[0] == "bad.png: no such file or directory"
    assert asked(engine, SYSTEM, shown(GREEN)).message.content == SEEN[GREEN]


def test_a_picture_that_does_not_fit_is_told_with_what_does(start: Start) -> None:
    message, hint, code = refused(start(context_tokens=64), media(RED))
    assert message == "prompt has 87 tokens, context is 64"
    assert (hint, code) == ("-c 128 makes room for it, --image-max-tokens makes images smaller", 65)


def test_without_eyes_a_model_says_so(start: Start, seeing_gguf: Path) -> None:
    message, hint, code = refused(start(mmproj=""), media(RED))
    assert message == "the model needs its mmproj file for images"
    assert (hint, code) == ("put the model's mmproj file next to it, or use --mmproj FILE", ExitCode.NO_INPUT)
    message, _, code = refused(start(mmproj=str(seeing_gguf)), media(RED))
    assert (message.startswith(f"{seeing_gguf.name} does not go with the model: "), code) == (True, ExitCode.BAD_DATA)


def test_looking_can_be_stopped(start: Start) -> None:
    engine = start()
    from qwenctl.protocol.messages import Generate

    events = engine.generate(Generate((SYSTEM, shown(RED)), True))
    engine.cancel()
    *_, finished = events
    assert isinstance(finished, GenerationFinished)
    assert asked(engine, SYSTEM, shown(RED)).message.content == SEEN[RED]
