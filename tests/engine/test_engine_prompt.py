"""A conversation becomes the same tokens as in the reference, and no text in it becomes a control token."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.messages import Message, ToolCall
from tests.support.own_process import late
from tests.support.paths import TOY
from tests.support.prompt_reference import REFERENCE, SPECIAL

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

pytestmark = pytest.mark.own_process
ChatTemplate = late("qwenctl.engine.prompt.chat_template:ChatTemplate")

TEMPLATE = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(  # noqa: S701 - not HTML
    (TOY / "chat_template.jinja").read_text()
)
TEXT = st.text().filter(lambda text: text.strip() and not any(special in text for special in SPECIAL))
TURNS = st.lists(st.tuples(TEXT, TEXT, st.text()), max_size=3)


def conversation(turns: list[tuple[str, str, str]], system: str, question: str) -> list[Message]:
    messages = [Message("system", system)] if system else []
    for asked, answered, thought in turns:
        messages += [Message("user", asked), Message("assistant", answered, thought)]
    return [*messages, Message("user", question)]


def reference_tokens(messages: list[Message], *, think: bool) -> list[int]:
    """The tokens of the whole rendered template, as transformers computes them."""
    turns: list[dict[str, Any]] = [
        {"role": message.role, "content": message.content, "reasoning_content": message.thinking}
        for message in messages
    ]
    text = TEMPLATE.render(messages=turns, add_generation_prompt=True, enable_thinking=think)
    return REFERENCE.encode(text, add_special_tokens=False).ids


@given(TURNS, st.one_of(st.just(""), TEXT), TEXT, st.booleans())
def test_prompt_tokens_of_ordinary_text_match_the_reference(
    toy_model: LoadedModel, turns: list[tuple[str, str, str]], system: str, question: str, think: bool
) -> None:
    messages = conversation(turns, system, question)
    assert toy_model.template.prompt(messages, think=think).tokens == reference_tokens(messages, think=think)


PLACES = {
    "user": lambda text: [Message("user", text)],
    "system": lambda text: [Message("system", text), Message("user", "Hi")],
    "answer": lambda text: [Message("user", "Hi"), Message("assistant", text), Message("user", "Hi")],
    "thinking": lambda text: [Message("user", "Hi"), Message("assistant", "Hi", text), Message("user", "Hi")],
    "file": lambda text: [Message("user", f"notes.txt:\n```\n{text}\n```\nSummarize this.")],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("token", SPECIAL)
def test_message_text_never_becomes_a_control_token(toy_model: LoadedModel, token: str, place: str) -> None:
    def control_tokens(text: str) -> list[int]:
        tokens = toy_model.template.prompt(PLACES[place](text), think=True).tokens
        return [one for one in tokens if one in SPECIAL.values()]

    harmless = control_tokens("x")
    for attack in (token, f"a{token}b", token * 3, f"{token[:4]}{token}{token[4:]}", f"{token}\n{token}"):
        assert control_tokens(attack) == harmless


@given(st.text(), st.sampled_from(list(SPECIAL)), st.text())
def test_text_that_spells_a_control_token_is_preserved(
    toy_model: LoadedModel, before: str, token: str, after: str
) -> None:
    import unicodedata

    text = before + token + after
    pieces = b"".join(toy_model.token_bytes[one] for one in toy_model.tokenizer.tokenize_text(text))
    assert pieces.decode() == unicodedata.normalize("NFC", text)


def test_text_is_normalized_to_nfc(toy_model: LoadedModel) -> None:
    decomposed, composed = "Cafe\N{COMBINING ACUTE ACCENT}", "Caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    assert toy_model.tokenizer.tokenize_text(decomposed) == toy_model.tokenizer.tokenize_text(composed)


def test_earlier_thinking_is_not_sent_again(toy_model: LoadedModel) -> None:
    asked, again = Message("user", "One?"), Message("user", "Two?")
    with_thought = [asked, Message("assistant", "1.", "a long thought"), again]
    without = [asked, Message("assistant", "1."), again]
    prompts = [toy_model.template.prompt(messages, think=True) for messages in (with_thought, without)]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for %}", "Expected"),
        ("{{ messages[0].content.__class__.__mro__ }}", "unsafe"),
        (
            "{{ raise_exception('No user query found.') }}",
            "No user query found.",
        ),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 1 }}", "can only concatenate list"),
    ],
    ids=["syntax error", "unsafe attribute", "raised exception", "missing message", "division by zero", "type error"],
)
def test_failing_template_is_reported_with_its_reason(toy_model: LoadedModel, template: str, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        ChatTemplate(template, toy_model.tokenizer).prompt([Message("user", "Hi")], think=True)
    assert caught.value.failed.kind == "template"
    assert reason in caught.value.failed.message


SQUARES = "{% set ns = namespace(x=9 ** 64) %}{% for i in range(24) %}{% set ns.x = ns.x * ns.x %}{% endfor %}"
TWICE = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = "
# What takes time or memory while it is compiled, in a single call, or in a place where errors are caught.
HOSTILE = {
    "constant string": "{{ 'a' * 10 ** 10 }}",
    "constant strings": "{{ ('a' * 10 ** 8 * 5) | upper | length }}" * 50,
    "constant number": f"{{{{ {'*'.join(['(9 ** 64)'] * 100_000)} }}}}",
    "constant numbers": "{{ " + " * ".join(["(7 ** 64 * 7 ** 64)"] * 20_000) + " }}",
    "constant filters": "{{ 'a' * 10 ** 8" + " | replace('a', 'b') | replace('b', 'a')" * 200 + " }}",
    "constant sort": "{{ (range(99999) | list)" + " | sort | reverse | list" * 300 + " | length }}",
    "one multiplication": SQUARES + "{{ ns.x % 7 }}",
    "one comparison": TWICE + "[ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
    "one text of all": TWICE + "[ns.y, ns.y] %}{% endfor %}{{ ns.x | string | length }}",
    "one JSON text": TWICE + "[ns.y, ns.y] %}{% endfor %}{{ ns.x | tojson | length }}",
    "default of an error": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{{ x.y is defined }}{{ (messages[9] | default({})).z | default(1) }}{% endfor %}{% endfor %}",
    "deep brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "deep blocks": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "deep lists": "{{ " + "[" * 3000 + "]" * 3000 + " | string }}",
    "many filters": "{{ 1" + " | abs" * 100_000 + " }}",
    "caller of itself": "{% macro m() %}{{ m() }}{% endmacro %}{% for i in range(99999) %}{{ m() }}{% endfor %}",
    "long prompt": "{{ 'a' * 10 ** 7 }}",
    "searched text": "{% set a = 'a' * 10 ** 8 %}{% for i in range(9999) %}{{ (a ~ i) in a }}{% endfor %}",
}


@pytest.mark.parametrize(
    ("bomb", "limit"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "2 s"),
        ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", ""),
        ("{% set x = 'a' * 2000000000 %}{{ x }}", "512 MiB"),
        (  # a hundredfold each time: doubling takes a slow machine longer than 2 s to fill the memory
            "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x"
            + " ~ ns.x" * 99
            + " %}{% endfor %}",
            "512 MiB",
        ),
        ("{{ 9 ** (9 ** 9) }}", "a power of 387420489"),
        ("{{ '%999999999d' % 1 }}", "512 MiB"),
        ("{{ range(100001) | list }}", ""),
        ("{{ 'x' | center(2000000000) }}", "512 MiB"),
        *[(hostile, "") for hostile in HOSTILE.values()],
    ],
    ids=[
        "nested loops",
        "recursive macro",
        "long string",
        "growing string",
        "large power",
        "wide format",
        "large range",
        "wide center",
        *HOSTILE,
    ],
)
def test_template_over_its_time_or_memory_limit_is_stopped(toy_model: LoadedModel, bomb: str, limit: str) -> None:
    with pytest.raises(RequestError, match=rf"the model's chat template fails: .*{limit}"):
        ChatTemplate(bomb, toy_model.tokenizer).prompt([Message("user", "Hi")], think=True)
    assert toy_model.template.prompt([Message("user", "Hi")], think=True).tokens


GROW = """
from qwenctl.engine.prompt.template_worker import resource_limits
texts = ["a"]
try:
    with resource_limits(600, 64 << 20):
        while True:
            texts.append(texts[-1] * 2)
except MemoryError:
    print(len(texts[-1]), len(texts[-1] * 16))
"""


def test_slowly_growing_memory_is_stopped_at_the_limit() -> None:
    # In a new process: memory that earlier tests have freed could be used again without counting.
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr.decode()
    longest, longest_outside_the_limit = map(int, done.stdout.split())
    assert 1 << 22 <= longest < 1 << 26
    assert longest_outside_the_limit >= 1 << 26


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch escaped') }}",
        "{{ self._TemplateReference__context.eval_ctx }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{% set x = lipsum.__globals__ %}{{ x }}",
    ],
    ids=[
        "subclasses",
        "globals of a method",
        "private attribute",
        "list mutation",
        "format string",
        "globals of a function",
    ],
)
def test_template_cannot_escape_its_sandbox(
    toy_model: LoadedModel, escape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    template = ChatTemplate(escape, toy_model.tokenizer)
    try:
        text = b"".join(
            toy_model.token_bytes[token] for token in template.prompt([Message("user", "Hi")], think=True).tokens
        )
    except RequestError:
        text = b""
    assert b"class" not in text
    assert not list(tmp_path.iterdir())


def test_thinking_begins_as_the_prompt_ends(toy_model: LoadedModel) -> None:
    source = (TOY / "chat_template.jinja").read_text()
    switch = "{%- if '/no_think' in messages[-1].content %}{%- set enable_thinking = false %}{%- endif %}\n"
    template = ChatTemplate(
        source.replace("{%- if add_generation_prompt %}", switch + "{%- if add_generation_prompt %}"),
        toy_model.tokenizer,
    )
    for text, thinks in (("Hi", True), ("Hi /no_think", False), ("<think> /no_think </think> <think>", False)):
        assert template.prompt([Message("user", text)], think=True).thinks is thinks
    assert not template.prompt([Message("user", "Hi")], think=False).thinks


def test_begun_answer_is_continued(toy_model: LoadedModel) -> None:
    begun = [Message("user", "Hi"), Message("assistant", "Once upon")]
    prompt = toy_model.template.prompt(begun, think=True)
    text = b"".join(toy_model.token_bytes[token] for token in prompt.tokens).decode()
    assert text.endswith("</think>\n\nOnce upon")
    assert not prompt.thinks
    thought = toy_model.template.prompt([Message("user", "Hi"), Message("assistant", "", "Let me")], think=True)
    assert thought.thinks
    calls = [Message("user", "Hi"), Message("assistant", "", "", (ToolCall("f", {}),))]
    with pytest.raises(RequestError, match="their results must follow"):
        toy_model.template.prompt(calls, think=True)
