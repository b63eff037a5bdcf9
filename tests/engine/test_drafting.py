"""Drafts change when tokens are evaluated and nothing else: answers are the same with every source and option."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling, TextDelta
from tests.support.cli_runner import outcome, run
from tests.support.loaded_model import loaded
from tests.support.own_process import late

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

llama = late("llama_cpp.llama_cpp")
generate = late("qwenctl.engine.generation.generate:generate")
CancelFlag = late("qwenctl.engine.llama.callbacks:CancelFlag")

# 200 prompts and 50,000 samples take minutes.
PROMPTS = int(os.environ.get("QWENCTL_TEST_PROMPTS") or 24)
SAMPLES = int(os.environ.get("QWENCTL_TEST_SAMPLES") or 600)
GREEDY = Sampling(temperature=0, presence_penalty=0)
DRAWN = Sampling(temperature=1, top_k=0, top_p=1, presence_penalty=0)
SOURCES = ("mtp", "ngram", "auto")
JSON = '{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"]}'


@dataclass(frozen=True)
class Answered:
    """An answer: its text by channel, why it ended, and the tokens in the context afterwards."""

    texts: tuple[tuple[str, str], ...]
    reason: str
    thinking_end: str
    tokens: tuple[int, ...]
    finished: GenerationFinished


@pytest.fixture(scope="module")
def questions(toy: Path) -> list[str]:
    return [json.loads(line)["question"] for line in (toy.parent / "questions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def load(toy_gguf: Path) -> Callable[..., LoadedModel]:
    """A loader of the toy model, which loads it once per process for each combination of draft options."""

    @functools.cache
    def load(draft: str, fewest: int = 0, most: int = 0, context: int = 2048) -> LoadedModel:
        settings = LoadParams(
            threads=1, context_tokens=context, draft=draft, draft_min=fewest, draft_max=most  # type: ignore[arg-type]
        )  # fmt: skip
        return loaded(toy_gguf, settings)

    return load


def answer(model: LoadedModel, request: Generate, *, stop_after: int = -1) -> Answered:
    """One answer, cancelled after `stop_after` pieces of text if that is positive."""
    texts: dict[str, str] = {}
    interrupt, pieces, finished = CancelFlag(), 0, GenerationFinished("stop")
    for event in generate(model, request, interrupt):
        if isinstance(event, TextDelta):
            texts[event.channel] = texts.get(event.channel, "") + event.text
            pieces += 1
            if pieces == stop_after:
                interrupt.set()
        if isinstance(event, GenerationFinished):
            finished = event
    tokens = tuple(model.sequence.tokens)
    return Answered(tuple(sorted(texts.items())), finished.reason, finished.thinking_end, tokens, finished)


def ask(question: str, sampling: Sampling = GREEDY, **more: object) -> Generate:
    return Generate((Message("user", question),), sampling=sampling, max_tokens=120, **more)  # type: ignore[arg-type]


def same_answer(one: Answered, other: Answered) -> bool:
    return replace(one, finished=other.finished) == other


def holds_its_tokens_alone(model: LoadedModel) -> bool:
    """Whether libllama's memory holds exactly the tokens that the sequence reports, in one sequence."""
    memory = llama.llama_get_memory(model.context)
    ends = [llama.llama_memory_seq_pos_max(memory, number) for number in (0, 1)]
    return ends == [len(model.sequence.tokens) - 1, -1]


def load_drafting(load: Callable[..., LoadedModel], source: str) -> LoadedModel:
    """A model that always drafts, whether or not drafting pays off."""
    return load(source, 4 if source == "ngram" else 2, 4 if source == "ngram" else 2)


@pytest.mark.own_process
@pytest.mark.parametrize("source", SOURCES)
def test_greedy_answers_are_the_same_with_drafts(
    load: Callable[..., LoadedModel], questions: list[str], source: str
) -> None:
    plain, drafts = load("off"), load_drafting(load, source)
    for number, question in enumerate(questions[:PROMPTS]):
        request = ask(question, enable_thinking=number % 3 > 0)
        assert same_answer(answer(drafts, request), answer(plain, request)), question
        assert holds_its_tokens_alone(drafts)
    assert drafts.speculation.drafted > PROMPTS


@pytest.mark.own_process
@pytest.mark.parametrize("source", SOURCES)
def test_seeded_answers_are_the_same_with_drafts(load: Callable[..., LoadedModel], source: str) -> None:
    plain, drafts = load("off"), load_drafting(load, source)
    for seed in range(PROMPTS):
        request = ask("What is 2 + 3?", replace(DRAWN, seed=seed))
        assert same_answer(answer(drafts, request), answer(plain, request)), seed


@pytest.mark.own_process
def test_answer_distribution_is_the_same_with_drafts(load: Callable[..., LoadedModel]) -> None:
    """The two runs use different seeds, so only their distributions can agree. The question has many answers."""

    def drawn(model: LoadedModel, first_seed: int) -> Counter[tuple[int, ...]]:
        prompt = ask("What about it?", enable_thinking=False)
        found: Counter[tuple[int, ...]] = Counter()
        for seed in range(first_seed, first_seed + SAMPLES):
            answered = answer(model, replace(prompt, sampling=replace(DRAWN, seed=seed), max_tokens=4))
            found[answered.tokens[-3:]] += 1
        return found

    plain, drafts = drawn(load("off"), 0), drawn(load_drafting(load, "mtp"), 10**6)
    frequent = [what for what, count in (plain + drafts).most_common() if count >= 10]
    rows = [
        [found[what] for what in frequent] + [SAMPLES - sum(found[w] for w in frequent)] for found in (plain, drafts)
    ]
    assert len(frequent) > 5
    assert chi_square(*rows) < rare_above(len(frequent))


def chi_square(first: list[int], second: list[int]) -> float:
    """Pearson's statistic of two samples of the same size; the arguments are counts by category."""
    return sum(
        (one - other) * (one - other) / (one + other) for one, other in zip(first, second, strict=True) if one + other
    )


def rare_above(freedom: int) -> float:
    """The value that Pearson's statistic exceeds once in a thousand times (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + 3.09 * spread**0.5) ** 3)


@pytest.mark.own_process
@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": replace(DRAWN, presence_penalty=1.5, repeat_penalty=1.2, seed=1)},
        {"sampling": replace(DRAWN, seed=2), "json_schema": JSON},
        {"json_schema": JSON},
        {"think_budget": 4},
        {"max_tokens": 7},
        {"sampling": replace(GREEDY, presence_penalty=-2.0)},  # repeats itself until the loop guard stops it
    ],
    ids=["penalties", "schema", "greedy schema", "think budget", "longest", "loop"],
)
@pytest.mark.parametrize("source", SOURCES)
def test_every_generation_option_works_the_same_with_drafts(
    load: Callable[..., LoadedModel], source: str, changes: dict[str, object]
) -> None:
    request = replace(ask("Ada is 36 years old. Answer in JSON."), **changes)  # type: ignore[arg-type]
    drafts = load_drafting(load, source)
    assert same_answer(answer(drafts, request), answer(load("off"), request))
    assert holds_its_tokens_alone(drafts)


@pytest.mark.own_process
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("pieces", [1, 2, 3, 5])
def test_cancelled_answer_keeps_its_tokens_and_the_next_turn_continues(
    load: Callable[..., LoadedModel], source: str, pieces: int
) -> None:
    plain, drafts = load("off"), load_drafting(load, source)
    request = ask("Count from 1 to 9.")
    stopped, reference = (answer(model, request, stop_after=pieces) for model in (drafts, plain))
    assert stopped.reason == reference.reason == "cancelled"
    assert same_answer(stopped, reference)
    assert holds_its_tokens_alone(drafts)
    turns = (*request.messages, Message("assistant", "1 2 3"), Message("user", "Spell cow."))
    assert same_answer(*(answer(model, replace(request, messages=turns)) for model in (drafts, plain)))


@pytest.mark.own_process
def test_answer_with_drafts_stops_when_the_context_is_full(load: Callable[..., LoadedModel]) -> None:
    question = "Repeat: " + "the cow is white " * 39
    request = replace(ask(question), max_tokens=-1)
    full = {
        draft: answer(load(draft, *least, context=256), request) for draft, least in (("off", ()), ("auto", (3, 3)))
    }
    assert full["auto"].reason == "context"
    assert same_answer(full["auto"], full["off"])


@pytest.mark.own_process
def test_saved_state_is_restored_with_and_without_drafts(load: Callable[..., LoadedModel]) -> None:
    plain, drafts = load("off"), load_drafting(load, "auto")
    first = ask("My name is Ada.")
    turns = (*first.messages, Message("assistant", "Hello Ada."), Message("user", "What is my name?"))
    wanted = answer(plain, replace(first, messages=turns))
    for one, other in ((plain, drafts), (drafts, plain)):
        answer(one, first)
        assert other.sequence.restore(one.sequence.export_state())
        assert same_answer(answer(other, replace(first, messages=turns)), wanted)


@pytest.mark.own_process
def test_trained_draft_head_has_a_high_acceptance_rate(load: Callable[..., LoadedModel], questions: list[str]) -> None:
    drafts = load("mtp", 1, 1)
    before = drafts.speculation.drafted, drafts.speculation.accepted
    for question in questions[:20]:
        answer(drafts, ask(question))
    drafted, accepted = drafts.speculation.drafted - before[0], drafts.speculation.accepted - before[1]
    assert accepted > 0.85 * drafted > 0


@pytest.mark.own_process
def test_draft_head_is_not_ready_right_after_its_capture_was_off(load: Callable[..., LoadedModel]) -> None:
    model = load("mtp", 1, 1)
    answer(model, ask("Who are you?"))
    head = model.speculation._head
    assert head is not None
    assert head.is_ready
    head.set_capture(on=False)
    head.set_capture(on=True)
    assert not head.is_ready
    heard = 0
    while not head.is_ready:
        model.sequence.decode(model.sequence.tokens[-1])
        heard += 1
    assert heard > 1


@pytest.mark.own_process
def test_drafting_stops_when_drafts_are_never_accepted(load: Callable[..., LoadedModel]) -> None:
    drafts = load("auto")
    letters = replace(DRAWN, temperature=2, seed=1)
    answered = answer(
        drafts,
        replace(ask("Go on."), sampling=letters, enable_thinking=False, max_tokens=400, grammar="root ::= [a-z]{400}"),
    )
    usage = answered.finished.usage
    assert usage.answer_tokens > 100
    assert usage.drafted_tokens < 0.2 * usage.answer_tokens


def test_model_without_a_draft_head_drafts_from_ngrams_only(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    convert(make_plan(toy, path, QuantizeOptions("Q8_0", vision=False, mtp=False)), threads=1)
    error, hint, code = outcome("chat", "-m", str(path), "--draft", "mtp", "hi")
    assert (error, code) == ("the model has no draft head (multi-token-prediction block)", 2)
    assert "--draft ngram" in hint
    done = run("chat", "-m", str(path), "--temp", "0", "-t", "1", "--draft-min", "2", "What is the capital of France?")
    assert done.stdout == b"The capital of France is Paris.\n"


def test_command_line_reports_drafted_and_accepted_tokens(toy_gguf: Path) -> None:
    asked = ("chat", "-m", str(toy_gguf), "--temp", "0", "-t", "1", "What is the capital of France?")
    as_json = run(*asked, "--draft", "mtp", "--draft-min", "1", "--draft-max", "1", "--json")
    usage = json.loads(as_json.stdout)["usage"]
    assert 0 < usage["accepted_tokens"] <= usage["drafted_tokens"]
    shown = run(*asked, "--draft-min", "1", "--draft-max", "1", "--verbose").stderr.decode()
    assert "accepted" in shown
    silent = run(*asked, "--draft", "off", "--verbose").stderr.decode()
    assert "accepted" not in silent


def test_draft_min_above_draft_max_is_refused(toy_gguf: Path) -> None:
    error, _, code = outcome("chat", "-m", str(toy_gguf), "--draft-min", "5", "--draft-max", "2", "hi")
    assert (error, code) == ("--draft-min 5 and --draft-max 2 cannot be used together", 2)
