"""What OpenAI's requests ask of an answer beyond its text: log probabilities, biases, and calls that must be made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qwenctl.protocol.batch import RecordDone, RecordFailed, SubmitRequest
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling, TextDelta, TokenLogprob, Tools
from qwenctl.tools.call_grammar import ToolChoice, call_grammar
from qwenctl.tools.calls import ParsedCalls, answer_with_calls
from tests.support.batching import GREEDY, add, answers, loaded_engine
from tests.support.loaded_model import loaded
from tests.support.own_process import late
from tests.support.prompt_reference import WEATHER
from tests.support.tool_calls import tool

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

generate = late("qwenctl.engine.generation.generate:generate")
CancelFlag = late("qwenctl.engine.llama.callbacks:CancelFlag")

WILD = Sampling(temperature=3.0, top_k=0, top_p=1.0, presence_penalty=0.5, seed=5)
SPELL = (Message("user", "Spell cow."),)
SHAPES = tool(
    "draw",
    {
        "color": {"enum": ["red", "dark blue", 7, None]},
        "title": {"type": "string", "minLength": 2, "maxLength": 12},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 99}, "maxItems": 3},
        "note": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "integer"}, {"type": "null"}]},
        "wide": {"type": "boolean"},
    },
    ["color", "title", "wide"],
)
TOOLS: Tools = (SHAPES, tool("stop", {}))


def answered(model: LoadedModel, request: Generate) -> tuple[dict[str, str], list[TokenLogprob], GenerationFinished]:
    """The text by channel, the tokens with probabilities, and the end of an answer."""
    *events, finished = generate(model, request, CancelFlag())
    assert isinstance(finished, GenerationFinished)
    texts = {"thinking": "", "answer": "", "call": ""}
    found: list[TokenLogprob] = []
    for event in events:
        if isinstance(event, TextDelta):
            texts[event.channel] += event.text
            found += event.logprobs
    return texts, found, finished


def joined(found: list[TokenLogprob]) -> str:
    return b"".join(bytes(one.bytes or ()) for one in found).decode("utf-8", "replace")


@pytest.mark.own_process
@pytest.mark.parametrize("sampling", [GREEDY, WILD])
@pytest.mark.parametrize("think", [True, False])
def test_probabilities_are_those_of_the_model_whatever_samples(
    toy_model: LoadedModel, sampling: Sampling, think: bool
) -> None:
    bias = ((toy_model.tokenizer.tokenize_template("C")[0], 3.0),)
    request = Generate(SPELL, think, sampling, 60, think_budget=20, logprobs=3, logit_bias=bias)
    toy_model.sequence.clear()
    texts, found, _ = answered(toy_model, request)
    assert joined(found).lstrip() == texts["answer"]
    # Evaluated again in the same steps: the softmax of the logits, without the bias and the penalties.
    tokens = list(toy_model.sequence.tokens)
    toy_model.sequence.clear()
    _, _, prompt = answered(toy_model, replace(request, max_tokens=0))
    expected, row = [], -1
    for token in tokens[prompt.usage.prompt_tokens :]:
        logits = toy_model.logits.row(row).astype(np.float64)
        logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        expected.append((toy_model.token_bytes[token], logprobs[token], sorted(logprobs)[:-4:-1]))
        row = toy_model.sequence.decode(token)
    # The last token of an answer need not have been evaluated.
    is_last = found[-1].bytes != tuple(expected[-1][0])
    for one, (data, logprob, top) in zip(found[: len(found) - is_last], expected[is_last - len(found) :], strict=True):
        assert bytes(one.bytes or ()) == data
        assert one.logprob == pytest.approx(logprob, abs=1e-5)
        assert [other.logprob for other in one.top_logprobs] == pytest.approx(top, abs=1e-5)


@pytest.mark.own_process
@pytest.mark.parametrize("source", ["mtp", "ngram"])
def test_drafts_change_neither_probabilities_nor_biases(toy_gguf: Path, toy_model: LoadedModel, source: Any) -> None:
    drafting = loaded(toy_gguf, LoadParams(threads=1, context_tokens=2048, draft=source, draft_min=2, draft_max=4))
    banned = toy_model.tokenizer.tokenize_template("blue")[0]
    for prompt in ("Count from 1 to 9.", "repeat: red blue red blue red blue"):
        for bias in ((), ((banned, -100.0),)):
            request = Generate((Message("user", prompt),), False, GREEDY, 60, logprobs=2, logit_bias=bias)
            (texts, found, _), (drafted, others, _) = (answered(model, request) for model in (toy_model, drafting))
            assert texts == drafted
            assert [one.token for one in found] == [one.token for one in others]
            assert [one.logprob for one in found] == pytest.approx([one.logprob for one in others], abs=2e-3)
    assert drafting.speculation.drafted > 0


@pytest.mark.own_process
def test_bias_bans_or_forces_a_token(toy_model: LoadedModel) -> None:
    plain, _, _ = answered(toy_model, Generate(SPELL, False, GREEDY, 20))
    first = toy_model.tokenizer.tokenize_template("C")[0]
    assert plain["answer"].startswith("C")
    banned, _, _ = answered(toy_model, Generate(SPELL, False, GREEDY, 20, logit_bias=((first, -100.0),)))
    assert "C" not in banned["answer"]
    forced, _, _ = answered(toy_model, Generate(SPELL, False, WILD, 5, logit_bias=((first, 100.0),)))
    assert forced["answer"] == "CCCCC"


def called(texts: dict[str, str], finished: GenerationFinished, tools: Tools) -> ParsedCalls:
    message, parsed = answer_with_calls(
        texts["answer"], texts["thinking"], texts["call"], finished.reason, tools, finished.control_offsets
    )
    assert message.content == texts["answer"]
    return parsed


@pytest.mark.own_process
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (ToolChoice(is_required=True), {"draw", "stop"}),
        (ToolChoice(is_required=True, allows_parallel=False), {"draw", "stop"}),
        (ToolChoice(name="draw"), {"draw"}),
        (ToolChoice(name="stop"), {"stop"}),
    ],
)
def test_forced_calls_are_made_and_follow_their_schemas(
    toy_model: LoadedModel, choice: ToolChoice, names: set[str]
) -> None:
    grammar = call_grammar(TOOLS, choice)
    for seed in range(6):
        hot = Sampling(temperature=[0.0, 1.0, 2.0][seed % 3], top_k=0, top_p=1.0, seed=seed)
        request = Generate(SPELL, seed % 2 == 0, hot, 400, think_budget=15, grammar=grammar, tools=TOOLS)
        texts, _, finished = answered(toy_model, request)
        if finished.reason != "stop":
            continue
        parsed = called(texts, finished, TOOLS)
        assert (parsed.problem, parsed.broken, texts["answer"]) == ("", "", "")
        assert parsed.calls
        assert all(not one.problem and one.call.name in names for one in parsed.calls), parsed
        assert len(parsed.calls) == 1 or choice == ToolChoice(is_required=True)
        for one in parsed.calls:
            if "title" in one.call.arguments:
                assert 2 <= len(one.call.arguments["title"]) <= 12
                assert all(1 <= size <= 99 for size in one.call.arguments.get("sizes", ()))
        assert bool(texts["thinking"]) or seed % 2
    assert finished.usage.answer_tokens


def test_batch_reports_probabilities_up_to_a_stop_text_and_refuses_unknown_tokens(
    toy_gguf: Path, tmp_path: Path
) -> None:
    with loaded_engine(toy_gguf, tmp_path) as engine:
        records: list[SubmitRequest] = [
            add(0, "Spell cow.", logprobs=1),
            add(1, "Spell cow.", logprobs=1, stop=("-O",)),
            add(2, "Spell cow.", logit_bias=((10**6, 1.0),)),
            add(3, "Spell cow."),
            add(4, "Spell cow.", tools=(WEATHER,), grammar=call_grammar((WEATHER,), ToolChoice(name="get_weather"))),
        ]
        found, _ = answers(engine, records, 3)
        whole, cut, refused, plain, call = (found[number] for number in range(5))
        assert isinstance(refused, RecordFailed)
        assert refused.message.startswith("logit_bias: the model has no token 1000000")
        assert isinstance(whole, RecordDone)
        assert isinstance(cut, RecordDone)
        assert isinstance(plain, RecordDone)
        assert isinstance(call, RecordDone)
        assert (whole.text, cut.text, plain.text, plain.logprobs) == ("C-O-W.", "C", "C-O-W.", None)
        assert whole.logprobs is not None
        assert joined(list(whole.logprobs)) == whole.text
        assert cut.logprobs == whole.logprobs[: len(cut.logprobs or ())]
        assert joined(list(cut.logprobs or ())).startswith("C")
        assert call.calls.startswith("<tool_call>\n<function=get_weather>\n<parameter=city>\n")
        request = Generate(SPELL, False, GREEDY, logprobs=1)
        streamed = [one for event in engine.generate(request) if isinstance(event, TextDelta) for one in event.logprobs]
        assert [one.token for one in streamed] == [one.token for one in whole.logprobs]
        assert json.dumps([one.logprob for one in streamed])
