"""Time to the first token of the next turn, and after --resume, against evaluating the whole conversation.

A conversation of about 16,000 tokens in 15 turns with four layers of the 35B (zeros: the arithmetic is the same). The
next prompt's prefix is evaluated while the user reads the answer: this and the loading of the model are not counted.
The engine that evaluates everything is the same one without snapshots.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from qwenctl.engine.client import Engine
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling
from tests.benchmarks.figures import Figure, at_least, ratio
from tests.benchmarks.inputs import QWENCTL, make_input
from tests.benchmarks.measure import MIB, cost_of
from tests.benchmarks.settings import Settings

_TURNS, _WORDS_A_TURN, _ANSWER_TOKENS = 15, 520, 64
_QUESTION = "And what follows from all this?"


def run(settings: Settings) -> Iterator[Figure]:
    """One long conversation, then rounds of its next turn, of resuming it, and of evaluating it in full."""
    model = settings.folder / "model.gguf"
    source = make_input("sparse-4-layers", settings.folder)
    cost_of([QWENCTL, "quantize", source, "--type", "Q8_0", "--quiet", "-o", model])
    keep = settings.folder / "state"
    turn, resumed, read, save = [], [], [], []
    with _engine(settings, model) as engine:
        messages = _conversation(engine)
        asked = (*messages, Message("user", _QUESTION))
        for _ in settings.rounds():
            engine.warm_prefix(messages, enable_thinking=False, state_path=keep)
            begin = time.perf_counter()
            engine.flush()  # waits for the prefix evaluation, then for the disk
            save.append(time.perf_counter() - begin)
            turn.append(_first_token(engine, asked))
            resumed.append(_resume(settings, model, keep, asked))
            read.append(_read_all(settings, model, asked))
    size = keep.stat().st_size / MIB
    tokens = f"of a conversation of {_tokens(settings, model, asked):,} tokens"
    yield ratio(f"next turn {tokens}", read, turn, "s to the first token", at_least(50), "reading everything")
    yield ratio("going on with it on another day", read, resumed, "s to the first token", at_least(50), "the same")
    yield Figure("reading ahead and keeping the state", save, None, "", "s, in the background")
    yield Figure("state on the disk", [size], None, "", "MiB")


def _engine(settings: Settings, model: Path, **changes: int) -> Engine:
    engine = Engine.start(settings.folder)
    loading = replace(LoadParams(context_tokens=24_576, threads=settings.threads), **changes)  # type: ignore[arg-type]
    list(engine.load(model, loading))
    return engine


def _conversation(engine: Engine) -> tuple[Message, ...]:
    messages: tuple[Message, ...] = ()
    for number in range(_TURNS):
        asked = (*messages, Message("user", f"Part {number}: " + "word " * _WORDS_A_TURN))
        list(engine.generate(_request(asked)))
        messages = (*asked, Message("assistant", f"Answer {number}."))
    return messages


def _request(messages: tuple[Message, ...]) -> Generate:
    return Generate(messages, False, Sampling(temperature=0, presence_penalty=0), _ANSWER_TOKENS)


def _first_token(engine: Engine, asked: tuple[Message, ...]) -> float:
    *_, finished = engine.generate(_request(asked))
    assert isinstance(finished, GenerationFinished)
    return finished.timings.first_token_s


def _resume(settings: Settings, model: Path, keep: Path, asked: tuple[Message, ...]) -> float:
    with _engine(settings, model) as engine:
        begin = time.perf_counter()
        assert engine.restore(keep).tokens
        return time.perf_counter() - begin + _first_token(engine, asked)


def _read_all(settings: Settings, model: Path, asked: tuple[Message, ...]) -> float:
    with _engine(settings, model, snapshot_bytes=0) as engine:
        return _first_token(engine, asked)


def _tokens(settings: Settings, model: Path, asked: tuple[Message, ...]) -> int:
    with _engine(settings, model) as engine:
        return engine.count_prompt(asked, enable_thinking=False)
