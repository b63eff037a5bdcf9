"""Renders a conversation so that each character's origin is known: the template's own, or from outside.

The template is rendered twice: with the plain texts, as transformers would, and with marked ones. Only a marked prompt
that reads as the plain one is used, so what a template does with texts is either followed exactly or refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from qwenctl.engine.prompt.marked_text import Alphabet
from qwenctl.engine.prompt.template_environment import CompiledTemplate

Segment = tuple[str, bool, bool]  # text, whether it is from outside, whether it begins at a boundary
CANNOT_FOLLOW = "it changes message texts in a way that cannot be followed"
NO_TOOLS = "no tools"
CANNOT_CONTINUE = "it does not write the answer that is to be continued"


class CannotRender(Exception):
    """Why a prompt is refused although the template can be rendered."""


@dataclass(frozen=True)
class RenderRequest:
    """What is rendered: `messages` and `tools` in OpenAI's format, and `variables` from outside by name.

    `own` has variables that are not from outside, such as the texts of special tokens. `continues` is set if the last
    message, the assistant's, is to be continued: what the template writes after it is cut off.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False


def render_marked(template: CompiledTemplate, request: RenderRequest, special_tokens: Iterable[str]) -> list[Segment]:
    """The prompt, in segments. Raises CannotRender, and whatever the template raises.

    Boundaries are the starts of the first user text and of each assistant text, and what follows an image.
    """
    now, tools = datetime.now().astimezone(), list(request.tools)
    given = {**request.variables, **request.own, "messages": list(request.messages), "tools": tools or None}
    plain = template.render(given, now)
    texts = list(strings([request.messages, tools, request.variables]))
    for with_boundaries in (True, False):  # marks beside images are seen by templates that count parts
        marked = _MarkedRequest(Alphabet(special_tokens, texts), with_boundaries)
        variables = {**marked.tree(request.variables), **request.own, **marked.conversation(request)}
        try:
            rendered = str.__add__(template.render(variables, now, marked.alphabet), "")  # its twins can be seen
        except Exception as error:
            if not with_boundaries:
                raise CannotRender(CANNOT_FOLLOW) from error
            continue
        if marked.alphabet.original(rendered) == plain:
            break
    else:
        raise CannotRender(CANNOT_FOLLOW)
    if not all(tool in rendered for tool in marked.tools):  # templates without support for tools ignore them silently
        raise CannotRender(NO_TOOLS)
    if request.continues:
        end = rendered.rfind(marked.end) if marked.end else -1
        if end < 0:
            raise CannotRender(CANNOT_CONTINUE)
        rendered = rendered[: end + 1]
    return list(marked.segments(rendered))


class _MarkedRequest:
    """A request with its texts marked; where the texts of interest begin and end."""

    def __init__(self, alphabet: Alphabet, with_boundaries: bool) -> None:
        self.alphabet, self._with_boundaries = alphabet, with_boundaries
        self._boundaries: set[str] = set()
        self.tools: list[str] = []  # a mark in each tool, if it has a text
        self.end = ""  # the mark at the end of the last message

    def tree(self, value: Any, wanted: str | None = None, mark: str = "") -> Any:
        """A JSON value with all its texts marked, and with `mark` at the beginning of each that is the `wanted` one."""
        if isinstance(value, str):
            return self.alphabet.text(value, {0: mark} if value == wanted else None)
        if isinstance(value, Mapping):
            return {self.alphabet.text(name): self.tree(each, wanted, mark) for name, each in value.items()}
        return [self.tree(each, wanted, mark) for each in value] if isinstance(value, list | tuple) else value

    def conversation(self, request: RenderRequest) -> dict[str, Any]:
        """The messages and the tools."""
        first_user = next((at for at, one in enumerate(request.messages) if one["role"] == "user"), None)
        last = len(request.messages) - 1 if request.continues else None
        messages = [
            self._message(message, at == first_user or message["role"] == "assistant", at == last)
            for at, message in enumerate(request.messages)
        ]
        return {"messages": messages, "tools": [self._tool(tool) for tool in request.tools] or None}

    def segments(self, rendered: str) -> Iterator[Segment]:
        """The rendered prompt in segments, with the texts as they were."""
        for text, is_outside in self.alphabet.split(rendered):
            yield self.alphabet.original(text), is_outside, text[0] in self._boundaries

    def _message(self, message: Mapping[str, Any], boundary: bool, is_last: bool) -> dict[str, Any]:
        """The message, with its fields in their order, which a template may see."""
        content = message["content"]

        def marked(name: str, value: Any) -> Any:
            if name == "role":
                return value
            if name == "reasoning_content":
                return self._text(value, boundary=True, ends=is_last and not content)
            if name != "content":
                return self.tree(value)
            if isinstance(value, str):
                return self._text(value, boundary=boundary, ends=is_last)
            return self._parts(value, boundary)

        return {name: marked(name, value) for name, value in message.items()}

    def _parts(self, parts: Sequence[Mapping[str, Any]], boundary: bool) -> list[Mapping[str, Any]]:
        """The text and images of a message, with boundaries before the first part and after the images."""
        marked: list[Mapping[str, Any]] = []
        last_image = max((at for at, part in enumerate(parts) if part["type"] != "text"), default=-1)
        for at, part in enumerate(parts):
            is_boundary = (boundary and at == 0) or at == last_image + 1
            if part["type"] == "text":
                marked.append({**part, "text": self._text(part["text"], boundary=is_boundary)})
            else:
                marked += [*self._mark_part(is_boundary), part]
        return [*marked, *self._mark_part(last_image == len(parts) - 1)]

    def _mark_part(self, wanted: bool) -> list[Mapping[str, Any]]:
        """A part that is not seen in the prompt, if it is wanted."""
        if not (wanted and self._with_boundaries):
            return []
        mark = self.alphabet.mark("")
        self._boundaries.add(mark)
        return [{"type": "text", "text": self.alphabet.restore_type(mark)}]

    def _text(self, text: str, *, boundary: bool = False, ends: bool = False) -> str:
        """A text; its boundary is its first character that is no white space, which templates often strip."""
        first, last = len(text) - len(text.lstrip()), len(text.rstrip()) - 1
        if last < 0:
            return self.alphabet.text(text)
        marks = {at: self.alphabet.mark(text[at]) for at in {first if boundary else last, last if ends else first}}
        if boundary:
            self._boundaries.add(marks[first])
        if ends:
            self.end = marks[last]
        return self.alphabet.text(text, marks if boundary or ends else None)

    def _tool(self, tool: Any) -> Any:
        """A tool, with a mark in its name, or in its first text if it has none."""
        function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
        name = function.get("name") if isinstance(function, Mapping) else None
        wanted = name if isinstance(name, str) and name else next(filter(None, strings(tool, names=False)), "")
        if not wanted:
            return self.tree(tool)
        mark = self.alphabet.mark(wanted[0])
        self.tools.append(mark)
        return self.tree(tool, wanted, mark)


def strings(value: Any, *, names: bool = True) -> Iterator[str]:
    """All texts in a JSON value; those that name fields only with `names`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if names:
                yield str(name)
            yield from strings(each, names=names)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings(each, names=names)
