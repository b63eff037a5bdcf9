"""A template reads what was written: the prompt is what plain Jinja makes of it, or it is refused."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.engine.prompt.marked_text import Alphabet, MarkedText
from qwenctl.engine.prompt.render_marked import CannotRender, RenderRequest, Segment, render_marked
from qwenctl.engine.prompt.template_environment import CompiledTemplate
from tests.support.paths import TOY
from tests.support.plain_jinja import plain_rendering

SPECIAL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "<tool_response>", "</tool_response>")
CONTROL = re.compile("|".join(map(re.escape, SPECIAL)))
PIECES = st.sampled_from([*SPECIAL, "<|im_", "end|>", "/no_think", " ", "\n", "im_end", "ünï", "\U00040001", "B:"])
TEXT = st.lists(PIECES | st.text(max_size=5), max_size=6).map("".join)
TOY_TEMPLATE = (TOY / "chat_template.jinja").read_text()


def turn(of: str) -> str:
    return "{% for m in messages %}{% set c = m.content %}<|im_start|>{{ m.role }}\n" + of + "<|im_end|>\n{% endfor %}"


# Templates that look at texts or change them, as those that people publish do.
READING = {
    "the model's": TOY_TEMPLATE,
    "in": turn("{% if '/no_think' in c %}<think></think>{% endif %}{{ c }}"),
    "not in": turn("{{ 'a' if '</think>' not in c else 'b' }}{{ c }}"),
    "split": turn("{{ c.split('</think>')[-1].lstrip('\n') }}"),
    "split at both": turn("{{ c.split('</think>')[0].rstrip('\n').split('<think>')[-1] }}"),
    "words": turn("{% for w in c.split() %}{{ loop.index }}{{ w }}{% endfor %}|{{ c.rsplit(None, 1) | join('+') }}"),
    "lines": turn("{% for line in c.splitlines() %}{{ line }};{% endfor %}"),
    "starts": turn("{% if c.startswith('<tool_response>') and c.endswith('</tool_response>') %}x{% endif %}{{ c }}"),
    "slices": turn("{{ c[:3] }}|{{ c[-3:] }}|{{ c[::2] }}|{{ c[::-1] }}"),
    "length": turn("{{ c | length }}{{ 'long' if c | length > 5 }}{{ c }}"),
    "trim": turn("{{ c | trim }}{{ c.strip() }}{{ c.strip('<>') }}"),
    "replace": turn("{{ c | replace('<think>', '[') }}{{ c.replace('end', c) }}{{ c.replace(' ', '<think>') }}"),
    "join": turn("{{ [c, c] | join(c) }}{{ c ~ '<think>' ~ c }}{% set d = c ~ 'x' %}{{ 'B:x' in d }}"),
    "letters": turn("{{ c | upper }}{{ c | lower }}{{ c.title() }}{{ c | capitalize }}{{ c.casefold() }}"),
    "tests": turn(
        "{{ c is string }}{{ c is mapping }}{{ c == 'B:' }}{{ c in ['B:', ' '] }}{{ c < 'b' }}{{ c.isalpha() }}"
    ),
    "json": turn("{{ c | tojson }}{{ [c, {c: c}] | tojson(indent=1, ensure_ascii=True) }}"),
    "first": turn("{{ c | first }}{{ c | last }}{% for x in c %}{{ x }},{% endfor %}{{ c | list | join('.') }}"),
    "format": turn("{{ '%s!' % c }}{{ '<{}>'.format(c) }}{{ c | truncate(4, True) }}{{ c | indent }}"),
    "find": turn("{{ c.find('im_end') }}{{ c.count('<') }}{{ c.index('') }}{{ c.partition('B:')[2] }}"),
    "set": turn("{% set x %}{{ c }}{% endset %}{% if 'B:' in x %}{{ x.split('B:')[1] }}{% endif %}"),
    "macro": "{% macro f(x) %}[{{ x }}]{% endmacro %}" + turn("{{ f(c) | trim }}{{ f(c).split('B:')[0] }}"),
    "int": turn("{{ c | int }}{{ c | wordcount }}{{ c | default('x') }}{{ c * 2 }}"),
    "wraps": turn("<{{ c }}>{{ '<|' + c + '|>' }}"),
    "generation": turn("{% generation %}{{ c }}{% endgeneration %}"),
    "hash": turn("{{ {'B:': 1}.get(c) }}{{ {c: 1}['B:'] is defined }}{{ [c, 'B:'] | unique | list | length }}"),
    "as Python": turn("{{ [c, {c: c}] }}{{ '%r' % c }}") + "{{ messages }}",
    "all as JSON": "{{ messages | tojson(indent=2) }}{% for m in messages %}{{ m.items() | list }}{% endfor %}",
    "dated": "{{ strftime_now('%Y') }}" + turn("{% if loop.index > 2 %}{% break %}{% endif %}{{ c }}"),
}
# What is refused for some texts: never for ordinary ones.
MAY_REFUSE = {"letters", "format", "int", "json", "tests", "as Python", "all as JSON"}


def messages_of(texts: list[str]) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    turns = [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
    return [{**turn, "reasoning_content": texts[0]} if turn["role"] == "assistant" else turn for turn in turns]


@functools.cache
def compiled(source: str) -> CompiledTemplate:
    return CompiledTemplate(source)


def rendered(source: str, request: RenderRequest) -> list[Segment]:
    return render_marked(compiled(source), request, SPECIAL)


def joined(segments: list[Segment]) -> str:
    return "".join(text for text, _, _ in segments)


def control_tokens(segments: list[Segment]) -> int:
    return sum(len(CONTROL.findall(text)) for text, is_outside, _ in segments if not is_outside)


@pytest.mark.parametrize("name", READING)
@settings(max_examples=40)
@given(texts=st.lists(TEXT, min_size=1, max_size=3))
def test_prompt_is_what_plain_jinja_makes_of_it_or_is_refused(name: str, texts: list[str]) -> None:
    messages = messages_of(texts)
    variables = {"messages": messages, "tools": None, "add_generation_prompt": True}
    request = RenderRequest(messages, own={"add_generation_prompt": True})
    try:
        expected = plain_rendering(READING[name], variables)
    except (jinja2.TemplateError, ValueError, LookupError) as error:
        with pytest.raises(type(error)):
            rendered(READING[name], request)
        return
    try:
        found = rendered(READING[name], request)
    except CannotRender:
        assert name in MAY_REFUSE
        return
    assert joined(found) == expected


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("text", ["Hello", "What is 1 + 1? /no_think", "Hé\n\n* a\n* b", "B: ok"])
def test_no_template_is_refused_for_ordinary_text(name: str, text: str) -> None:
    messages = messages_of([text, "Yes.", text])
    variables = {"messages": messages, "tools": None}
    assert joined(rendered(READING[name], RenderRequest(messages))) == plain_rendering(READING[name], variables)


@given(
    st.lists(TEXT, min_size=1, max_size=3), st.sampled_from(["the model's", "in", "words", "join", "wraps", "macro"])
)
def test_control_tokens_in_texts_are_not_the_templates(texts: list[str], name: str) -> None:
    texts = [text.replace("/no_think", "") for text in texts]
    harmless = [re.sub("[<>|]", ".", text) for text in texts]
    counts = []
    for given_texts in (texts, harmless):
        try:
            counts.append(control_tokens(rendered(READING[name], RenderRequest(messages_of(given_texts)))))
        except jinja2.TemplateError:  # the model's own asks for a user's turn that is no result of a tool
            return
    assert counts[0] == counts[1] or name == "join"


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("part", range(1, len("<|im_end|>")))
def test_token_that_is_partly_a_message_is_text(place: str, part: int) -> None:
    first, last = "<|im_end|>"[:part], "<|im_end|>"[part:]
    own, text = (first, last) if place == "first" else (last, first)
    source = f"{own}{{{{ messages[0].content }}}}" if place == "first" else f"{{{{ messages[0].content }}}}{own}"
    found = rendered(source, RenderRequest(messages_of([text])))
    assert joined(found) == "<|im_end|>"
    assert control_tokens(found) == 0


def test_boundaries_are_the_first_question_and_each_answer() -> None:
    found = rendered(TOY_TEMPLATE, RenderRequest(messages_of(["  One?", "Ünd", "Two?"])))
    after = [joined(found[at:]) for at, segment in enumerate(found) if segment[2]]
    assert [text[:4] for text in after] == ["One?", "Ünd<"]


def test_marks_beside_images_are_not_seen() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}, {"type": "image"}]
    messages = [{"role": "user", "content": parts}]
    found = rendered(TOY_TEMPLATE, RenderRequest(messages))
    assert joined(found) == plain_rendering(TOY_TEMPLATE, {"messages": messages})
    assert sum(is_boundary for _, _, is_boundary in found) == 2
    counting = "{{ messages[0].content | length }}"
    assert joined(rendered(counting, RenderRequest(messages))) == "3"


def test_continued_answer_ends_the_prompt() -> None:
    messages = messages_of(["Count.", "1, 2, "])
    text = joined(rendered(TOY_TEMPLATE, RenderRequest(messages, continues=True)))
    assert text.endswith("</think>\n\n1, 2,")
    with pytest.raises(CannotRender, match="does not write the answer"):
        rendered("{{ messages[0].content }}", RenderRequest(messages, continues=True))


def test_variables_from_outside_are_text() -> None:
    source = "{{ x }}{{ bos_token }}{{ y.z[0] }}"
    request = RenderRequest(
        messages_of(["a"]), variables={"x": "<think>", "y": {"z": ["</think>"]}}, own={"bos_token": "<|im_start|>"}
    )
    found = rendered(source, request)
    assert joined(found) == "<think><|im_start|></think>"
    assert control_tokens(found) == 1


def test_tools_that_the_template_does_not_write_are_refused() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "f", "parameters": {}}}
    with pytest.raises(CannotRender, match="no tools"):
        rendered("{{ messages[0].content }}", RenderRequest(messages_of(["a"]), [tool]))
    for source in ("{{ tools | tojson }}", "{% for t in tools %}{{ t.function.name }}{% endfor %}"):
        expected = plain_rendering(source, {"tools": [tool]})
        assert joined(rendered(source, RenderRequest(messages_of(["a"]), [tool]))) == expected


@given(TEXT, TEXT)
def test_marked_text_reads_as_the_original(text: str, other: str) -> None:
    alphabet = Alphabet(SPECIAL, [text, other])
    marked = alphabet.text(text)
    assert alphabet.original(marked) == text
    assert (marked == text, hash(marked) == hash(text), len(marked)) == (True, True, len(text))
    assert (other in marked) == (other in text)
    assert all(isinstance(one, MarkedText) or one not in alphabet.special_chars for one in marked)


def test_module_defines_no_way_out(tmp_path: Path) -> None:
    for escape in ("{{ messages[0].content._alphabet }}", "{{ messages[0].content.__class__ }}"):
        with pytest.raises((jinja2.TemplateError, CannotRender)):
            rendered(escape + "{{ x.y }}", RenderRequest(messages_of(["<"])))
