"""Answers with drafts against the same answers without: where drafts are right, never right, and in between.

Two engines answer the same questions with the same seeds in turn, prompts included. Each round starts two new engines,
because the location of a process' memory changes speeds by some percent. The ratio is that of their tokens per second;
with one thread these are seconds of CPU time, which other users of the machine affect less. The toy model has a trained
draft head, but its steps take a third of a millisecond, so drafts cannot pay off. The mixture-of-experts model has
random weights: its head is never right. Where a grammar makes it write the same function ten times, n-grams predict the
text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from qwenctl.engine.client import Engine
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling
from tests.benchmarks.figures import Figure, at_least, ratio
from tests.benchmarks.inputs import QWENCTL, TOY, make_input, make_toy_gguf
from tests.benchmarks.measure import cost_of
from tests.benchmarks.settings import Settings

_TOKENS = 400
_NEVER_SLOWER = at_least(0.97)
_GREEDY, _DRAWN = Sampling(temperature=0, presence_penalty=0), Sampling(temperature=1, top_k=0, top_p=1, seed=1)
_LETTERS = f"root ::= [a-z]{{{_TOKENS}}}"  # which neither a head nor n-grams predict
_AGAIN = f"root ::= {'r ' * 10}\n" + r'r ::= "def area(width, height):\n    return width * height\n\n"'
_Draft = Literal["auto", "mtp", "off"]


def run(settings: Settings) -> Iterator[Figure]:
    """The toy model with its questions and with letters, and the mixture-of-experts model, sampled and greedy."""
    toy = make_toy_gguf(settings.folder)
    lines = [json.loads(line) for line in (TOY.parent / "questions.jsonl").read_text().splitlines()]
    questions = [_ask(line["question"], _GREEDY) for line in lines if "image" not in line]
    letters = 12 * [Generate((Message("user", "Go on."),), False, _DRAWN, _TOKENS, grammar=_LETTERS)]
    yield from _against(settings, toy, "toy, its questions", questions)
    yield from _against(settings, toy, "toy, letters drawn at random", letters)
    yield _accepted(settings, toy, questions)
    model = settings.folder / "random.gguf"
    cost_of(
        [QWENCTL, "quantize", make_input("random-1gb", settings.folder), "--type", "Q4_K_M", "--quiet", "-o", model]
    )
    yield from _against(settings, model, "4-layer mixture of experts, drawn", 2 * [_ask("Go on.", _DRAWN)])
    yield from _against(settings, model, "4-layer mixture of experts, copying", 4 * [_copying()])


def _copying() -> Generate:
    return Generate((Message("user", "Write it ten times."),), False, _DRAWN, _TOKENS, grammar=_AGAIN)


def _ask(question: str, sampling: Sampling) -> Generate:
    return Generate((Message("user", question),), False, sampling, _TOKENS)


@dataclass(frozen=True)
class _Timed:
    """An engine and its process."""

    engine: Engine
    process: psutil.Process
    threads: int

    def seconds(self) -> float:
        """The seconds passed so far: CPU time with one thread."""
        times = self.process.cpu_times()
        return times.user + times.system if self.threads == 1 else time.perf_counter()


@contextmanager
def _engine(settings: Settings, model: Path, draft: _Draft, always: int = 0) -> Iterator[_Timed]:
    before = {child.pid for child in psutil.Process().children()}
    with Engine.start(settings.folder) as engine:
        [process] = [child for child in psutil.Process().children() if child.pid not in before]
        loading = LoadParams(4096, settings.threads, draft=draft, draft_min=always, draft_max=always)
        list(engine.load(model, loading))
        yield _Timed(engine, process, settings.threads)


def _answer(timed: _Timed, requests: Sequence[Generate]) -> tuple[float, int, int, int]:
    """The seconds of all answers, their tokens, and the drafted and accepted tokens."""
    tokens = drafted = accepted = 0
    begin = timed.seconds()
    for request in requests:
        *_, finished = timed.engine.generate(request)
        assert isinstance(finished, GenerationFinished)
        usage = finished.usage
        tokens += usage.thinking_tokens + usage.answer_tokens
        drafted, accepted = drafted + usage.drafted_tokens, accepted + usage.accepted_tokens
    return timed.seconds() - begin, tokens, drafted, accepted


def _against(settings: Settings, model: Path, what: str, requests: Sequence[Generate]) -> Iterator[Figure]:
    with_drafts, without, share = [], [], []
    for _ in settings.rounds():
        with _engine(settings, model, "auto") as drafts, _engine(settings, model, "off") as plain:
            _answer(drafts, requests), _answer(plain, requests)  # the draft controller learns from the first answers
            seconds, tokens, drafted, _ = _answer(drafts, requests)
            with_drafts.append(tokens / seconds)
            share.append(drafted / tokens)
            seconds, tokens, *_ = _answer(plain, requests)
            without.append(tokens / seconds)
    yield ratio(what, with_drafts, without, "tokens/s", _NEVER_SLOWER, "without drafts")
    yield Figure(f"{what}: drafted tokens", share, None, "", "for each token of the answers")


def _accepted(settings: Settings, toy: Path, questions: Sequence[Generate]) -> Figure:
    found = []
    for length in (1, 2, 3):
        with _engine(settings, toy, "mtp", length) as engine:
            _, _, drafted, accepted = _answer(engine, questions)
            found.append(accepted / drafted)
    shares = " / ".join(f"{share:.0%}" for share in found)
    return Figure("toy: drafts of one token accepted", found[:1], None, "", f"{shares} of those of 1, 2 and 3 tokens")
