"""A conversation's state on disk is restored without evaluating the prompt again, or refused; it is never wrong."""

from __future__ import annotations

import functools
import os
import resource
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.client import Engine
from qwenctl.engine.kv.state_file import SequenceState, StateMismatch, read_state, write_state
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Restored, Sampling, TextDelta, WarmPrefix
from tests.support.engines import Start
from tests.support.own_process import late, real
from tests.support.turns import QUESTIONS, SYSTEM, ask, tokens_of, with_turn

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

generate = late("qwenctl.engine.generation.generate:generate")
CancelFlag = late("qwenctl.engine.llama.callbacks:CancelFlag")
prefill_ahead = late("qwenctl.engine.generation.prefill:prefill_ahead")
prefill = late("qwenctl.engine.generation.prefill:prefill")


def talk(engine: Engine, questions: tuple[str, ...], keep: Path) -> tuple[Message, ...]:
    messages: tuple[Message, ...] = (SYSTEM,)
    for question in questions:
        messages = with_turn(messages, question, ask(engine, (*messages, Message("user", question))))
        engine.warm_prefix(messages, enable_thinking=True, state_path=keep)
        assert engine.flush().error == ""
    return messages


def test_restored_engine_evaluates_only_new_tokens(start: Start, tmp_path: Path) -> None:
    keep, uncached = tmp_path / "state", start(snapshot_bytes=0)
    messages = talk(start(), QUESTIONS[:3], keep)
    engine = start()
    assert engine.restore(keep).tokens == engine.stats().context_used > 0
    asked = (*messages, Message("user", QUESTIONS[3]))
    reply = ask(engine, asked)
    assert reply.message == ask(uncached, asked).message
    assert reply.evaluated <= tokens_of(uncached, QUESTIONS[3])
    assert stat.S_IMODE(keep.stat().st_mode) == 0o600


def test_last_question_is_answered_again_from_a_restored_state(start: Start, tmp_path: Path) -> None:
    messages = talk(start(), QUESTIONS[:3], tmp_path / "state")
    engine = start()
    engine.restore(tmp_path / "state")
    again = ask(engine, messages[:-1])
    assert again.message == messages[-1]
    assert again.evaluated <= 4


@pytest.mark.own_process
def test_state_is_saved_during_a_long_prefill_and_includes_the_position_before_it(
    toy_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwenctl.engine.generation.generate.prefill", functools.partial(real(prefill), every_s=0))
    saved_states: list[SequenceState] = []

    def answer(*turns: Message) -> tuple[str, GenerationFinished]:
        request = Generate(
            turns, enable_thinking=False, sampling=Sampling(temperature=0, presence_penalty=0), max_tokens=20
        )
        *events, finished = generate(toy_model, request, CancelFlag(), saved_states.append)
        assert isinstance(finished, GenerationFinished)
        return "".join(event.text for event in events if isinstance(event, TextDelta)), finished

    begin = Message("user", QUESTIONS[0])
    first, first_end = answer(begin)
    turns, long = (begin, Message("assistant", first)), Message("user", "word " * 9000)
    assert prefill_ahead(toy_model, WarmPrefix(turns, enable_thinking=False), lambda _: True)
    output, whole = answer(*turns, long)
    assert 3 <= len(saved_states) <= 10
    assert len(saved_states[-1].tokens) >= 0.7 * whole.usage.prompt_tokens
    last = saved_states[-1]
    assert toy_model.sequence.restore(last)
    output_again, again = answer(*turns, long)
    assert output_again == output
    assert again.usage.cached_tokens == len(last.tokens)
    assert toy_model.sequence.restore(last)
    other, gone_back = answer(*turns, Message("user", QUESTIONS[1]))
    begin_again = first_end.usage.prompt_tokens - 4  # before the answer: the template tokens around its turn may change
    assert gone_back.usage.cached_tokens >= begin_again
    toy_model.sequence.clear()
    assert answer(*turns, Message("user", QUESTIONS[1]))[0] == other


def test_state_older_than_the_conversation_is_reused(start: Start, tmp_path: Path) -> None:
    """After a crash, only what was said since the last save has to be evaluated again."""
    keep, engine = tmp_path / "state", start()
    messages = talk(engine, QUESTIONS[:2], keep)
    messages = with_turn(messages, QUESTIONS[2], ask(engine, (*messages, Message("user", QUESTIONS[2]))))
    other, uncached = start(), start(snapshot_bytes=0)
    other.restore(keep)
    asked = (*messages, Message("user", QUESTIONS[3]))
    reply = ask(other, asked)
    assert reply.message == ask(uncached, asked).message
    assert reply.usage.cached_tokens > reply.evaluated


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (LoadParams(2048, cache_type_k="q8_0"), "it was made with another type of KV cache"),
        (LoadParams(64), "it does not fit this context"),
    ],
    ids=["cache type", "short context"],
)
def test_state_with_other_settings_is_refused(
    start: Start, toy_gguf: Path, tmp_path: Path, settings: LoadParams, reason: str
) -> None:
    talk(start(), QUESTIONS[:2], tmp_path / "state")
    with Engine.start(tmp_path) as engine:
        list(engine.load(toy_gguf, settings))
        assert engine.restore(tmp_path / "state") == Restored(0, reason)
        assert ask(engine, (Message("user", QUESTIONS[1]),)).message.content == "The capital of France is Paris."


def test_state_of_another_model_is_refused(start: Start, toy: Path, tmp_path: Path) -> None:
    from quantize.convert import convert
    from quantize.plan import QuantizeOptions, make_plan

    talk(start(), QUESTIONS[:1], tmp_path / "state")
    convert(make_plan(toy, tmp_path / "other.gguf", QuantizeOptions("Q4_K_M", vision=False)), 1)
    with Engine.start(tmp_path) as engine:
        list(engine.load(tmp_path / "other.gguf", LoadParams(2048)))
        assert engine.restore(tmp_path / "state") == Restored(0, "it was made with another model")


def test_full_disk_is_reported_and_the_chat_continues(start: Start, tmp_path: Path) -> None:
    engine = start()
    messages = with_turn((SYSTEM,), QUESTIONS[0], ask(engine, (SYSTEM, Message("user", QUESTIONS[0]))))
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    engine.warm_prefix(messages, enable_thinking=True, state_path=tmp_path / "state")
    assert "File too large" in engine.flush().error
    assert not (tmp_path / "state").exists()
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    engine.warm_prefix(messages, enable_thinking=True, state_path=tmp_path / "no such folder" / "state")
    assert "No such file" in engine.flush().error
    assert ask(engine, (*messages, Message("user", QUESTIONS[1]))).message.content == "The capital of France is Paris."


# ------------------------------------------------------------------ the state file

KEY = {"model": "m", "type of KV cache": "f16 f16"}
SAVED = SequenceState([1, 2, 70_000], np.arange(1000, dtype=np.uint8), {2: np.full(300, 7, np.uint8)})


def equal(one: SequenceState, other: SequenceState) -> bool:
    arrays = [(each.state, *(each.checkpoints[at] for at in sorted(each.checkpoints))) for each in (one, other)]
    same = all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))
    return same and one.tokens == other.tokens and sorted(one.checkpoints) == sorted(other.checkpoints)


@given(
    st.lists(st.integers(0, 2**31 - 1)), st.binary(), st.dictionaries(st.integers(0, 2**31), st.binary(), max_size=3)
)
def test_state_file_round_trip_is_exact(tokens: list[int], state: bytes, snapshots: dict[int, bytes]) -> None:
    import tempfile

    saved = SequenceState(
        tokens, np.frombuffer(state, np.uint8), {at: np.frombuffer(each, np.uint8) for at, each in snapshots.items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        write_state(Path(folder) / "state", KEY, saved)
        assert equal(read_state(Path(folder) / "state", KEY), saved)
        assert len(list(Path(folder).iterdir())) == 1


def test_damaged_state_file_is_never_used(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(path, KEY, SAVED)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), 37)]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 3)]
    for data in damaged:
        path.write_bytes(data)
        with suppress(StateMismatch):
            assert equal(read_state(path, KEY), SAVED)  # an unused bit of the header


def test_killed_writer_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    old, new = (SequenceState([number], np.full(20_000_000, number, np.uint8), {}) for number in (1, 2))
    write_state(tmp_path / "state", KEY, old)
    for delay in np.random.default_rng(1).uniform(0, 0.06, 12):
        child = os.fork()
        if child == 0:
            write_state(tmp_path / "state", KEY, new)
            os._exit(0)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = read_state(tmp_path / "state", KEY)
        assert equal(found, old) or equal(found, new)
        write_state(tmp_path / "state", KEY, old)
