"""Tool calls and results are evaluated once, and answers match those of a run without snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.engine.client import Engine
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling, TextDelta, ToolCall, Usage
from qwenctl.tools.calls import answer_with_calls
from tests.support.engines import Start, engines
from tests.support.prompt_reference import WEATHER

GREEDY = Sampling(temperature=0, presence_penalty=0)
SYSTEM = Message("system", "You are a helpful assistant.")
# Makes the toy model behave like a model with tool support: some text, then a call.
CALLS = (
    'start: /[A-Z][a-z ]{0,20}/ <tool_call> "\\n<function=get_weather>\\n<parameter=city>\\n" '
    '/[A-Z][a-z]{1,8}[.!;]?/ "\\n</parameter>\\n</function>\\n" </tool_call>'
)
RESULTS = ("What is the capital of France?", "Sunny; 21 °C.", "error: no answer within 60 seconds", "{}\n\n[]", "2 + 3")
QUESTIONS = ("My name is Linus.", "What is the capital of France?", "Spell cow.", "What is my name?")


@pytest.fixture
def start(toy_gguf: Path, tmp_path: Path) -> Iterator[Start]:
    with engines(toy_gguf, tmp_path, context_tokens=4096) as started:
        yield started


def next_answer(
    engine: Engine, messages: list[Message], *, think: bool, grammar: str = "", problem: str = ""
) -> tuple[Message, Usage]:
    """The next answer as a message of the conversation, and its token usage; no call of it runs with a `problem`."""
    request = Generate(tuple(messages), think, GREEDY, 60, grammar=grammar, tools=(WEATHER,))
    *events, finished = engine.generate(request)
    assert isinstance(finished, GenerationFinished)
    output = [
        "".join(event.text for event in events if isinstance(event, TextDelta) and event.channel == channel)
        for channel in ("answer", "thinking", "call")
    ]
    message, found = answer_with_calls(*output, finished.reason, (WEATHER,), finished.control_offsets)
    assert found.problem.partition(";")[0] == problem
    return message, finished.usage


@pytest.mark.parametrize("think", [True, False])
def test_round_evaluates_only_the_last_call_and_its_result(start: Start, think: bool) -> None:
    engine, uncached = start(), start(snapshot_bytes=0)
    messages = [SYSTEM, Message("user", QUESTIONS[0])]
    output = 0  # in the tokens that the toy generated, which differ from those of the template
    for number, result in enumerate(RESULTS):
        message, usage = next_answer(engine, messages, think=think, grammar=CALLS)
        reference, whole = next_answer(uncached, messages, think=think, grammar=CALLS)
        assert message == reference
        assert message.tool_calls
        assert whole.cached_tokens == 0
        if number:
            assert usage.prompt_tokens - usage.cached_tokens < output + 60 < usage.prompt_tokens
        output = usage.thinking_tokens + usage.answer_tokens
        messages += [message, Message("tool", result)]
    message, usage = next_answer(engine, messages, think=think)
    assert message == next_answer(uncached, messages, think=think)[0]
    assert usage.prompt_tokens - usage.cached_tokens < output + 60
    # The next question leaves out the thinking of all rounds: these are evaluated again, the tools are not.
    asked = [*messages, message, Message("user", QUESTIONS[1])]
    message, usage = next_answer(engine, asked, think=think)
    assert message == next_answer(uncached, asked, think=think)[0]
    assert usage.cached_tokens > 350


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Actions: ask or ask again, with some number of calls, with or without evaluating the next prefix ahead."""
    actions = st.sampled_from(["ask", "ask", "ask and read ahead", "again", "undo"])
    return draw(st.lists(st.tuples(actions, st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=5))


def test_answers_after_any_call_history_equal_those_without_snapshots(start: Start) -> None:
    engine, uncached = start(), start(snapshot_bytes=0)

    @settings(max_examples=20)
    @given(histories(), st.booleans())
    def check(history: list[tuple[str, int, int]], think: bool) -> None:
        turns: list[list[Message]] = []
        for action, number, rounds in history:
            question = Message("user", QUESTIONS[number])
            if action in ("again", "undo") and turns:
                last = turns.pop()
                question = last[0] if action == "again" else question
            turn = [question]
            for done in range(rounds + 1):
                before = [SYSTEM, *(message for one in turns for message in one), *turn]
                grammar = CALLS if done < rounds else ""
                message, _ = next_answer(engine, before, think=think, grammar=grammar)
                assert message == next_answer(uncached, before, think=think, grammar=grammar)[0]
                turn.append(message)
                turn += [Message("tool", RESULTS[(number + done) % len(RESULTS)]) for _ in message.tool_calls]
            turns.append(turn)
            if action == "ask and read ahead":
                ahead = (SYSTEM, *(message for one in turns for message in one))
                engine.warm_prefix(ahead, enable_thinking=think, tools=(WEATHER,))

    check()


def test_call_in_another_form_reevaluates_only_its_own_answer(start: Start) -> None:
    engine, uncached = start(), start(snapshot_bytes=0)
    messages = [SYSTEM, Message("user", QUESTIONS[2])]
    message, usage = next_answer(engine, messages, think=True, grammar=CALLS)
    call = ToolCall("get_weather", {"city": message.tool_calls[0].arguments["city"].lower()})
    messages += [Message("assistant", message.content, message.thinking, (call,)), Message("tool", RESULTS[0])]
    reply, again = next_answer(engine, messages, think=True)
    assert reply == next_answer(uncached, messages, think=True)[0]
    output = usage.thinking_tokens + usage.answer_tokens
    assert again.prompt_tokens - again.cached_tokens < output + 60 < again.prompt_tokens


def test_text_that_spells_a_call_is_not_a_call(start: Start) -> None:
    spelled = 'root ::= "<tool_call>" "\\n<function=get_weather>\\n</function>\\n" "</tool_call>"'
    problem = "the call is not within <tool_call> and </tool_call>"
    asked = [Message("user", QUESTIONS[0])]
    message, _ = next_answer(start(), asked, think=False, grammar=spelled, problem=problem)
    assert message == Message("assistant", "<tool_call>\n<function=get_weather>\n</function>\n</tool_call>")
