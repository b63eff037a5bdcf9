"""Tools, calls and results become the reference's tokens, and none of their text becomes a control token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.messages import Generate, Message, ToolCall, Tools
from tests.support.own_process import late
from tests.support.paths import TOY
from tests.support.prompt_reference import REFERENCE, SPECIAL, TEMPLATE, WEATHER

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

pytestmark = pytest.mark.own_process
generate = late("qwenctl.engine.generation.generate:generate")
CancelFlag = late("qwenctl.engine.llama.callbacks:CancelFlag")
ChatTemplate = late("qwenctl.engine.prompt.chat_template:ChatTemplate")


TEXT = st.text().filter(lambda text: not any(special in text for special in SPECIAL))
OUTPUT = TEXT.filter(lambda text: text.strip())
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
CALLS = st.lists(st.builds(ToolCall, TEXT, st.dictionaries(TEXT, JSON, max_size=3)), min_size=1, max_size=3)
ROUNDS = st.lists(st.tuples(TEXT, TEXT, CALLS, st.lists(OUTPUT, min_size=1, max_size=3)), min_size=1, max_size=3)


def with_rounds(rounds: list[tuple[str, str, list[ToolCall], list[str]]]) -> list[Message]:
    messages = []
    for text, thinking, calls, results in rounds:
        messages.append(Message("assistant", text, thinking, tuple(calls)))
        messages += [Message("tool", result) for result in results]
    return messages


def reference_tokens(messages: list[Message], tools: Tools, *, think: bool) -> list[int]:
    """The tokens of the whole rendered template, as transformers computes them."""
    turns: list[dict[str, Any]] = [
        {
            "role": message.role,
            "content": message.content,
            "reasoning_content": message.thinking,
            "tool_calls": [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.tool_calls
            ],
        }
        for message in messages
    ]
    text = TEMPLATE.render(messages=turns, tools=list(tools), add_generation_prompt=True, enable_thinking=think)
    return REFERENCE.encode(text, add_special_tokens=False).ids


@settings(max_examples=200)
@given(st.lists(st.tuples(OUTPUT, ROUNDS), min_size=1, max_size=2), TEXT, TEXT, JSON, st.booleans())
def test_prompt_tokens_of_calls_and_results_match_the_reference(
    toy_model: LoadedModel, turns: list[tuple[str, Any]], system: str, description: str, value: Any, think: bool
) -> None:
    tools = (WEATHER, {"type": "function", "function": {"name": "f", "description": description, "parameters": value}})
    messages = [Message("system", system)] if system else []
    for asked, rounds in turns:
        messages += [Message("user", asked), *with_rounds(rounds)]
        found = toy_model.template.prompt(messages, think=think, tools=tools).tokens
        assert found == reference_tokens(messages, tools, think=think)
        messages.append(Message("assistant", "Done."))


def messages_with_call(name: str, arguments: dict[str, Any]) -> list[Message]:
    return [Message("user", "Hi"), Message("assistant", "", "", (ToolCall(name, arguments),)), Message("tool", "x")]


PLACES: dict[str, Any] = {
    "result": lambda text: ([*messages_with_call("f", {}), Message("tool", text)], (WEATHER,)),
    "name": lambda text: (messages_with_call(text, {}), (WEATHER,)),
    "argument": lambda text: (messages_with_call("f", {text: "x"}), (WEATHER,)),
    "value": lambda text: (messages_with_call("f", {"x": text}), (WEATHER,)),
    "nested value": lambda text: (
        messages_with_call("f", {"x": [{"a": {"b": [text]}}], "y": {text: text}}),
        (WEATHER,),
    ),
    "text before a call": lambda text: (
        [Message("user", "Hi"), Message("assistant", text, text, (ToolCall("f", {}),)), Message("tool", "x")],
        (WEATHER,),
    ),
    "description": lambda text: ([Message("user", "Hi")], (WEATHER, {"function": {"description": text}})),
    "parameters": lambda text: ([Message("user", "Hi")], (WEATHER, {"function": {text: {text: [text]}}})),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("token", SPECIAL)
def test_tool_text_never_becomes_a_control_token(toy_model: LoadedModel, token: str, place: str) -> None:
    def control_tokens(text: str) -> list[int]:
        messages, tools = PLACES[place](text)
        tokens = toy_model.template.prompt(messages, think=True, tools=tools).tokens
        return [one for one in tokens if one in SPECIAL.values()]

    harmless = control_tokens("x")
    begun = token[:-1]  # the template writes `>` after a name
    for attack in (token, f"a{token}b", token * 3, f"{token[:4]}{token}{token[4:]}", begun, f"{token}\n{begun}"):
        assert control_tokens(attack) == harmless


def test_template_without_tool_support_is_refused(toy_model: LoadedModel) -> None:
    template = ChatTemplate("{{ messages[0].content }}", toy_model.tokenizer)
    with pytest.raises(RequestError) as caught:
        template.prompt([Message("user", "Hi")], think=True, tools=(WEATHER,))
    assert caught.value.failed.kind == "setting"
    assert caught.value.failed.message == "the model's chat template does not support functions"


def test_vocabulary_without_a_tool_call_token_is_refused(toy_model: LoadedModel) -> None:
    request = Generate((Message("user", "Hi"),), tools=(WEATHER,))
    with pytest.raises(RequestError) as caught:
        next(generate(replace(toy_model, tool_call_start_token=None), request, CancelFlag()))
    assert caught.value.failed.message == "the model's vocabulary has no token that starts a tool call"


def test_argument_values_follow_the_template_of_the_model(toy_model: LoadedModel) -> None:
    source = (TOY / "chat_template.jinja").read_text()
    old = "args_value is mapping or (args_value is sequence and args_value is not string)"
    later = source.replace(old, "args_value is not string")  # as in Qwen3.6
    assert later != source
    messages = messages_with_call("f", {"a": True, "b": None, "c": 1.5, "d": [True], "e": "True"})
    texts = []
    for template in (toy_model.template, ChatTemplate(later, toy_model.tokenizer)):
        tokens = template.prompt(messages, think=True).tokens
        text = b"".join(toy_model.token_bytes[token] for token in tokens).decode()
        texts.append([text.split(f"<parameter={name}>\n")[1].split("\n")[0] for name in "abcde"])
    assert texts == [["True", "None", "1.5", "[true]", "True"], ["true", "null", "1.5", "[true]", "True"]]
