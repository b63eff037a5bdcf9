"""Tokens per second of a whole answer, against bare llama_decode and Llama.

The toy model at Q8_0 decodes a token in a third of a millisecond, so all overhead shows. `qwenctl chat` is timed from
outside, from the first byte in the pipe to the last. The bare loop decodes as many tokens at the same positions.
`Llama` is llama-cpp-python's class, `create_completion(stream=True)`: with the same seed it gives the same answer (this
is checked). It detokenizes the whole answer for each token, and again for each token since the last complete character,
so it is slow with long answers, and slower with bytes that are not text. Hence three answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figures import Figure, Goal, at_least, ratio
from tests.benchmarks.inputs import QWENCTL, make_toy_gguf
from tests.benchmarks.measure import Cost, cost_of
from tests.benchmarks.settings import Settings

_CONTEXT, _THREADS = 32_768, 1


@dataclass(frozen=True)
class _Question:
    """A question, its sampling, and the goal against `Llama`."""

    what: str
    text: str
    temperature: float
    top_k: int
    seed: int
    most: int
    goal: Goal | None


# At this temperature the toy model picks any of its `top_k` likeliest tokens until one happens to end the answer, which
# seed 4 does late. With `top_k` 0 all tokens are likely, and some are parts of characters.
_LONG = _Question("words", "hello", 50, 250, 4, 4096, at_least(4))
_SHORT = _Question("words", "Who are you?", 0, 0, 0, 4096, None)
_NO_TEXT = _Question("parts of characters", "hello", 50, 0, 9, 250, None)


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds of all three in turn."""
    model = make_toy_gguf(settings.folder)
    for question in (_LONG, _SHORT, _NO_TEXT):
        yield from _measured(settings, model, question)


def _measured(settings: Settings, model: Path, question: _Question) -> Iterator[Figure]:
    usage = json.loads(cost_of([*_chat(model, question), "--json"]).output)["usage"]
    made = usage["answer_tokens"]
    chat, bare, llama = [], [], []
    for _ in settings.rounds(4):
        ours, theirs = cost_of(_chat(model, question)), cost_of(_high_level(model, question))
        if _text(ours) != _text(theirs):
            raise RuntimeError(f"different answers:\n{ours.output!r}\n{theirs.output!r}")
        chat.append(made / (ours.last - ours.first))
        llama.append(made / (theirs.last - theirs.first))
        bare.append(made / float(cost_of(_bare(model, usage["prompt_tokens"], made)).output))
    what, unit = f"{made:,} tokens, {question.what}: tokens/s", "tokens/s"
    if question == _LONG:
        yield ratio(what, chat, bare, unit, at_least(0.9), "bare llama_decode loop")
    yield ratio(what, chat, llama, unit, question.goal, "Llama.create_completion(stream=True)")


def _text(answer: Cost) -> str:
    """The answer without the two known differences: white space at its ends, and bytes that are not text."""
    return answer.output.decode().replace("\N{REPLACEMENT CHARACTER}", "").strip()


def _chat(model: Path, question: _Question) -> list[object]:
    chosen = f"--temp={question.temperature} --top-k={question.top_k} --seed={question.seed}"
    options = f"--no-think {chosen} --top-p=1 --presence-penalty=0 -n {question.most} -c {_CONTEXT} -t {_THREADS}"
    return [QWENCTL, "chat", "-m", model, *options.split(), question.text]


def _high_level(model: Path, question: _Question) -> list[object]:
    sampling = (question.temperature, question.top_k, question.seed, question.most)
    return [sys.executable, "-m", "tests.benchmarks.high_level", model, _CONTEXT, _THREADS, *sampling, question.text]


def _bare(model: Path, prompt_tokens: int, tokens: int) -> list[object]:
    return [sys.executable, "-m", "tests.benchmarks.bare_loop", model, _CONTEXT, _THREADS, prompt_tokens, tokens]
