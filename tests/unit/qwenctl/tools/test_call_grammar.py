"""What the grammar of forced calls allows is read back and follows the schemas, and all calls that do are allowed.

The grammar is matched with a vocabulary of single bytes, so that every text can be written.
"""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper, grammar_from
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from qwenctl.protocol.messages import ToolCall, Tools
from qwenctl.tools.call_grammar import ToolChoice, call_grammar
from qwenctl.tools.calls import parse_calls
from tests.support.prompt_reference import TEMPLATE
from tests.support.tool_calls import tool

OPEN, CLOSE, END = 256, 257, 258
REQUIRED = ToolChoice(is_required=True)


class _Bytes:
    """A vocabulary of all bytes, the two control tokens of calls, and the end."""

    eos_token_id, bos_token_id = END, None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<tool_call>", b"</tool_call>", b"<|im_end|>")
    special_token_ids = (OPEN, CLOSE, END)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


VOCABULARY = LLTokenizer(TokenizerWrapper(_Bytes()))


def matcher(grammar: str) -> LLMatcher:
    found = LLMatcher(VOCABULARY, grammar_from("grammar", grammar), log_level=0)
    assert not found.is_error(), found.get_error()
    return found


def to_tokens(text: str) -> list[int]:
    """The tokens of calls as a model writes them, with the outermost tags as control tokens."""
    tokens: list[int] = []
    for number, part in enumerate(text.split("<tool_call>")):
        tokens += [OPEN] * bool(number)
        inner, close, rest = part.rpartition("</tool_call>") if number else (part, "", "")
        tokens += [*inner.encode(), *([CLOSE] if close else []), *rest.encode()]
    return tokens


def allows(grammar: str, text: str) -> bool:
    state, tokens = matcher(grammar), to_tokens(text)
    return state.try_consume_tokens(tokens) == len(tokens) and state.is_accepting()


def written(*calls: ToolCall) -> str:
    """Calls as the chat template of Qwen3.5 writes them."""
    functions = [{"function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    turn = {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": functions}
    rendered = TEMPLATE.render(messages=[{"role": "user", "content": "Hi"}, turn])
    return rendered.split("</think>\n\n", 1)[1].removesuffix("<|im_end|>\n")


TEXT = st.text(max_size=12) | st.sampled_from(
    ["a\nb", "\n", "<b>", "</param", "5 < 6", "<functional>", '"q"', "Größe 🙂"]
)
NULL = {"type": "null"}
KINDS: dict[str, tuple[dict[str, Any], st.SearchStrategy[Any]]] = {
    "string": ({"type": "string"}, TEXT),
    "short": ({"type": "string", "minLength": 2, "maxLength": 4}, st.text("ab\n", min_size=2, max_size=4)),
    "code": ({"type": "string", "pattern": "^[a-z]+/[0-9]{2}$"}, st.from_regex(r"[a-z]{1,4}/[0-9]{2}", fullmatch=True)),
    "choice": ({"enum": ["dark blue", "größe", 7, None, True, ""]}, st.sampled_from(["größe", 7, None, True, ""])),
    "constant": ({"const": "only"}, st.just("only")),
    "integer": ({"type": "integer"}, st.integers(-(10**17), 10**17)),
    "bounded": ({"type": "integer", "minimum": 5, "maximum": 300}, st.integers(5, 300)),
    "number": ({"type": "number"}, st.integers(-999, 999) | st.floats(-1e6, 1e6).map(lambda value: round(value, 6))),
    "boolean": ({"type": "boolean"}, st.booleans()),
    "null": ({"type": "null"}, st.none()),
    "array": ({"type": "array", "items": {"type": "integer"}}, st.lists(st.integers(-99, 99), max_size=4)),
    "object": (
        {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"], "additionalProperties": False},
        st.fixed_dictionaries({"x": st.booleans()}),
    ),
    "text or null": ({"type": ["string", "null"]}, st.none() | st.text("ab", min_size=1, max_size=4)),
    "text or list": (
        {"anyOf": [{"type": "string"}, {"type": "array", "items": NULL}, {"type": "integer", "minimum": 9}]},
        st.text("ab", max_size=4) | st.lists(st.none(), max_size=2) | st.integers(9, 99),
    ),
    "merged": ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, st.text("ab", max_size=3)),
}  # fmt: skip
NAME = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@st.composite
def functions_and_calls(draw: st.DrawFn) -> tuple[Tools, list[ToolCall]]:
    tools, calls = [], []
    for name in draw(st.lists(NAME, min_size=1, max_size=3, unique=True)):
        kinds = draw(st.dictionaries(NAME, st.sampled_from(list(KINDS)), max_size=4))
        required = [key for key in kinds if draw(st.booleans())]
        tools.append(tool(name, {key: KINDS[kind][0] for key, kind in kinds.items()}, required))
        given_keys = [key for key in kinds if key in required or draw(st.booleans())]
        calls.append(ToolCall(name, {key: draw(KINDS[kinds[key]][1]) for key in given_keys}))
    return tuple(tools), calls


@settings(max_examples=60)
@given(functions_and_calls())
def test_calls_that_follow_their_schemas_are_allowed(case: tuple[Tools, list[ToolCall]]) -> None:
    tools, calls = case
    assert allows(call_grammar(tools, REQUIRED), written(*calls))
    single = call_grammar(tools, ToolChoice(is_required=True, allows_parallel=False))
    assert allows(single, written(*calls)) == (len(calls) == 1)
    for call in calls:
        named = call_grammar(tools, ToolChoice(name=call.name))
        assert [allows(named, written(other)) for other in calls] == [other.name == call.name for other in calls]
    optional = call_grammar(tools, ToolChoice(allows_parallel=False))
    assert allows(optional, "Some text <function>\n" + written(calls[0]))
    assert allows(optional, "Some text.")
    assert allows(optional, written(*calls)) == (len(calls) == 1)


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value follows one of the schemas above."""
    if "enum" in schema:
        return any(value == one and type(value) is type(one) for one in schema["enum"])
    if "const" in schema:
        return bool(value == schema["const"])
    if "allOf" in schema:
        return all(conforms(value, {"type": "string", **one}) for one in schema["allOf"])
    if "anyOf" in schema:
        return any(conforms(value, one) for one in schema["anyOf"])
    if isinstance(schema["type"], list):
        return any(conforms(value, {"type": one}) for one in schema["type"])
    if schema["type"] == "string":
        fits = isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)
        return fits and ("pattern" not in schema or (value[:1].isalpha() and value[-2:].isdigit()))
    if schema["type"] == "integer":
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and schema.get("minimum", value) <= value <= schema.get("maximum", value)
    kinds: dict[str, Any] = {"number": (int, float), "boolean": bool, "null": type(None), "array": list, "object": dict}
    return isinstance(value, kinds[schema["type"]])


def random_walk(grammar: str, draw: random.Random) -> str:
    """Text that the grammar allows, drawn byte by byte; closing tags are likelier than chance would have them."""
    state, mask = matcher(grammar), allocate_token_bitmask(1, VOCABULARY.vocab_size)
    text, at = bytearray(), 0
    likely = b'\n</parameter>\n<fu[1]"{}-e9 tn\xe6\x97\xa5'
    for step in range(1500):
        fill_next_token_bitmask(state, mask)
        allowed = set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())
        assert allowed, text
        if END in allowed and (len(allowed) == 1 or step > 400):
            return text.decode()
        wanted = b"\n</parameter>\n"[at : at + 1]
        pool = [byte for byte in likely if byte in allowed]
        if wanted and wanted[0] in allowed and draw.random() < (0.9 if at else 0.2):
            token, at = wanted[0], at + 1
        else:
            token = draw.choice(pool) if pool and draw.random() < 0.5 else draw.choice(sorted(allowed - {END}))
            at = 0
        state.consume_token(token)
        text += _Bytes.tokens[token]
    raise AssertionError("the walk does not end")


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_grammar_allows_is_read_back_and_follows_its_schema(kind: str) -> None:
    schema = KINDS[kind][0]
    tools = (tool("f", {"a": schema, "b": schema}, ["a"]),)
    for seed in range(8):
        text = random_walk(call_grammar(tools, ToolChoice(name="f")), random.Random(seed))
        parsed = parse_calls(text, tools)
        assert (parsed.problem, parsed.broken) == ("", ""), text
        [call] = parsed.calls
        assert call.problem == "", text
        assert call.call.arguments.keys() >= {"a"}
        assert all(conforms(value, schema) for value in call.call.arguments.values()), text


@pytest.mark.parametrize(
    "text", ["</parameter>", "a\n</parameter>\n", "<parameter=b>", "<function=f>", "</function>\n", "</tool_call>"]
)  # fmt: skip
def test_text_of_an_argument_has_no_tag(text: str) -> None:
    grammar = call_grammar((tool("f", {"a": {"type": "string"}}),), REQUIRED)
    state = matcher(grammar)
    tokens = [OPEN, *f"\n<function=f>\n<parameter=a>\nx {text} y\n</parameter>\n</function>\n".encode(), CLOSE]
    assert state.try_consume_tokens(tokens) < len(tokens)


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ((tool("a>b", {}),), "the function 'a>b' cannot be called"),
        ((tool("f", {"a\nb": {}}),), "the parameter 'a\\nb' cannot be called"),
        ((tool("f", {"a": {"enum": ["</parameter>"]}}),), "none of its enum can be written"),
    ],
)
def test_call_that_cannot_be_written_is_an_error(tools: Tools, reason: str) -> None:
    with pytest.raises(ValueError, match="cannot") as caught:
        call_grammar(tools, REQUIRED)
    assert reason in str(caught.value)


def test_nothing_is_forced_without_functions_or_a_choice() -> None:
    assert call_grammar((), REQUIRED) == call_grammar((tool("f", {}),), ToolChoice()) == ""
    bare: Tools = ({"type": "function", "function": {"name": "f"}},)
    assert allows(call_grammar(bare, REQUIRED), written(ToolCall("f", {})))
    assert json.loads(json.dumps(bare)) == list(bare)
