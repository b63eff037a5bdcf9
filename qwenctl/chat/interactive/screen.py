"""What a chat shows: blocks of Markdown printed once, and below them a small region that is redrawn.

Events of the engine come in, a terminal changes. Only the unfinished block, the thinking and the progress live in the
redrawn region, which is never taller than the terminal, so that nothing is ever printed twice. All text of a model is
cleaned on its way. This is the only module of the chat that knows rich.
"""

from __future__ import annotations

import re
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Heading, Markdown
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.segment import SegmentLines
from rich.syntax import Syntax
from rich.text import Text

from qwenctl.chat.interactive.markdown_stream import Block, MarkdownStream
from qwenctl.errors import QwenctlError
from qwenctl.protocol.load import LoadProgress, ModelInfo
from qwenctl.protocol.messages import GenerationFinished, Message, PrefillProgress, PrefixReady, TextDelta
from qwenctl.terminal.sanitize import TerminalCleaner, clean, clean_line, truncate_middle
from qwenctl.tools.calls import format_call
from qwenctl.views.answer import ending, figures, reading

ColorChoice = Literal["auto", "always", "never"]
_REDRAWS_PER_SECOND = 15
_RESULT_LINES = 6
_CODE_THEME = "ansi_dark"  # the terminal's own 16 colors, readable on any background


def make_console(color: ColorChoice, file: TextIO | None = None) -> Console:
    """A console that writes text as it is: no markup, no emoji names, no guessed highlights."""
    no_color = {"auto": None, "always": False, "never": True}[color]
    return Console(
        file=file or sys.stdout,
        markup=False,
        emoji=False,
        highlight=False,
        no_color=no_color,
        force_terminal=True if color == "always" else None,
    )


class Screen:
    """The terminal of one chat."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, *lines: str) -> None:
        """Something the program says."""
        for line in lines:
            self._console.print(Text(clean(line), style="dim"))

    def error(self, error: QwenctlError) -> None:
        """A failure that does not end the chat."""
        self._console.print(Text.assemble(("error: ", "red"), clean_line(error.message)), soft_wrap=True)
        if error.hint:
            self._console.print(Text(f"  hint: {clean_line(error.hint)}", style="dim"), soft_wrap=True)

    def loading(self, name: str, events: Iterable[LoadProgress | ModelInfo]) -> ModelInfo:
        """Show how far the loading of `name` is; return what was loaded."""
        columns = (TextColumn("loading {task.description}", markup=False), BarColumn(), TaskProgressColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(clean_line(name), total=1.0)
            for event in events:
                if isinstance(event, ModelInfo):
                    return event
                progress.update(task, completed=event.fraction)
        raise QwenctlError("the engine stopped without loading a model")

    def reading(self, events: Iterable[PrefillProgress | PrefixReady]) -> PrefixReady:
        """Show how far the reading of a prefix is; return what was read."""
        with Live(console=self._console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
            for event in events:
                if isinstance(event, PrefixReady):
                    return event
                line = Text(reading(event, "the prefix (Ctrl-C stops and saves the progress)"), style="dim")
                live.update(line, refresh=True)
        raise QwenctlError("the engine stopped while it evaluated the prompt")

    def replay(self, messages: Sequence[Message]) -> None:
        """The end of an earlier conversation: its last question and answer."""
        last = max((at for at, message in enumerate(messages) if message.role == "user"), default=len(messages))
        if last > 0:
            self.note(f"… {last:,} earlier messages")
        for message in messages[last:]:
            if message.role == "user":
                pictures = "".join(f"[{clean_line(media.name)}] " for media in message.media)
                self._console.print(Text(f"> {pictures}{truncate_middle(clean(message.content))}"))
            elif message.role == "tool":
                self.result(message.content)
            else:
                with self.answer() as view:
                    view.show(TextDelta(message.content, "answer"))
                for call in message.tool_calls:
                    self.call(format_call(call), whole=False)

    def call(self, line: str, *, whole: bool) -> None:
        """A call of a function on its line; `whole`, if a person is to decide on it, however long it is."""
        text = Text(f"→ {line}")
        if whole:
            self._console.print(text, soft_wrap=True)
        else:
            self._console.print(text, overflow="ellipsis", no_wrap=True)

    def result(self, text: str) -> None:
        """The beginning of what a function gave."""
        lines = clean(text).strip("\n").splitlines()
        shown = lines[:_RESULT_LINES]
        if len(lines) > len(shown):
            shown.append(f"… {len(lines) - len(shown):,} more lines")
        for line in shown:
            self._console.print(Text(f"  {line}", style="dim"), overflow="ellipsis", no_wrap=True)

    def copy(self, text: str) -> None:
        """Put `text` on the clipboard of the terminal (OSC 52), also through ssh."""
        if self._console.is_terminal:
            self._console.file.write(f"\x1b]52;c;{b64encode(text.encode()).decode()}\a")
            self._console.file.flush()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that something takes a while."""
        with self._console.status(Text(what, style="dim")):
            yield

    @contextmanager
    def answer(self) -> Iterator[AnswerView]:
        """A view of one answer; what it has got is shown in full also when the answer breaks off."""
        with Live(console=self._console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
            view = AnswerView(self._console, live)
            try:
                yield view
            finally:
                view.close()

    def finished(self, finished: GenerationFinished, loaded: ModelInfo, max_tokens: int) -> None:
        """The line below an answer: why it ended, if not by itself, and its figures."""
        items = figures(finished, loaded.context_tokens)
        why = ending(finished, max_tokens)
        self._console.print()
        for line in _fit([f"[{why}]", *items] if why else items, self._console.width):
            self._console.print(Text(line, style="dim"), soft_wrap=True)
        if finished.reason != "context" and finished.usage.context_used > 0.8 * loaded.context_tokens:
            self.note("the context is nearly full: /clear or /undo frees space, -c sets a larger context")


class AnswerView:
    """One answer on the terminal. `text` and `thinking` are what the model wrote, unchanged."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console, self._live = console, live
        self._pieces: dict[str, list[str]] = {"thinking": [], "answer": [], "call": []}
        self._cleaners = {channel: TerminalCleaner() for channel in self._pieces}
        self._shown_thinking = self._shown_calls = ""
        self._markdown = MarkdownStream()
        self._thinking_since: float | None = None
        self._thinking_tokens = 0
        self._redrawn_at = 0.0
        self._printed: Block | None = None

    @property
    def text(self) -> str:
        return "".join(self._pieces["answer"])

    @property
    def thinking(self) -> str:
        return "".join(self._pieces["thinking"])

    @property
    def calls(self) -> str:
        """The text of calls, tags included; it is shown only as long as it is being written."""
        return "".join(self._pieces["call"])

    def show(self, event: PrefillProgress | TextDelta) -> None:
        """Show one event of the answer."""
        if isinstance(event, PrefillProgress):
            self._redraw(lambda: Text(reading(event), style="dim"))
            return
        self._pieces[event.channel].append(event.text)
        self._thinking_tokens += event.tokens if event.channel == "thinking" else 0
        shown = self._cleaners[event.channel].feed(event.text)
        if event.channel == "thinking":
            self._show_thinking(shown)
        elif event.channel == "call":
            self._collapse_thinking()
            self._print(self._markdown.finish())
            self._shown_calls = (self._shown_calls + shown)[-self._console.width * self._console.height :]
            self._redraw(lambda: self._tail(self._shown_calls, "dim"))
        else:
            self._collapse_thinking()
            self._print(self._markdown.feed(shown))
            self._redraw(self._open_block)

    def close(self) -> None:
        """Print what is still open: the answer is over."""
        self._collapse_thinking()
        self._print(self._markdown.finish())
        self._live.update(Text(""))

    def _show_thinking(self, shown: str) -> None:
        if self._thinking_since is None:
            self._thinking_since = time.monotonic()
        # Only the end is ever drawn; keeping no more makes a long thought cost no more than a short one.
        self._shown_thinking = (self._shown_thinking + shown)[-self._console.width * self._console.height :]
        self._redraw(lambda: self._tail(self._shown_thinking.lstrip(), "dim italic"))

    def _collapse_thinking(self) -> None:
        if self._thinking_since is None:
            return
        seconds, self._thinking_since = time.monotonic() - self._thinking_since, None
        self._live.update(Text(""))
        if self.thinking.strip():
            line = f"thought for {seconds:.1f} s, {self._thinking_tokens:,} tokens (/thinking shows it)"
            self._console.print(Text(line, style="dim"))

    def _print(self, blocks: Sequence[Block]) -> None:
        """Print finished blocks; they leave the redrawn region at the same moment."""
        if blocks:
            self._live.update(self._open_block())
        for block in blocks:
            if block.kind == "markdown" and not block.text.strip():
                continue
            if self._printed and (block.kind == "markdown" or (block.kind == "fence" and self._opens(block))):
                self._console.print()
            if block.kind == "markdown":
                self._console.print(self._rendered(block.text))
            else:
                self._console.print(_code_line(block), soft_wrap=True)
            self._printed = block

    def _rendered(self, text: str) -> SegmentLines:
        """One block of Markdown, without the empty lines that rich puts around lists and tables."""
        lines = self._console.render_lines(_ChatMarkdown(text, hyperlinks=False, code_theme=_CODE_THEME), pad=False)
        filled = [at for at, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        return SegmentLines(lines[filled[0] : filled[-1] + 1] if filled else [], new_lines=True)

    def _opens(self, fence: Block) -> bool:
        """Is this the first line of a code block? (The last one follows code, or is bare.)"""
        return bool(fence.language) or (self._printed is not None and self._printed.kind == "markdown")

    def _redraw(self, region: Callable[[], Text]) -> None:
        """Draw the region again, unless it was drawn a moment ago."""
        now = time.monotonic()
        if now - self._redrawn_at >= 1 / _REDRAWS_PER_SECOND:
            self._redrawn_at = now
            self._live.update(region(), refresh=True)

    def _open_block(self) -> Text:
        return self._tail(self._markdown.open_text.lstrip("\n"), "")

    def _tail(self, text: str, style: str) -> Text:
        """The last lines of `text` that fit on the terminal with room to spare."""
        width, height = self._console.width, max(1, self._console.height - 4)
        near = Text(text[-width * height :].rstrip("\n"), style=style)
        return Text("\n", style=style).join(near.wrap(self._console, width)[-height:])


class _PlainHeading(Heading):
    """A heading at the left, where rich would center it and put the first level in a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        self.text.style = "bold underline" if self.tag == "h1" else "bold"
        yield self.text


class _ChatMarkdown(Markdown):
    elements = {**Markdown.elements, "heading_open": _PlainHeading}  # noqa: RUF012 - the form rich asks for


def _code_line(block: Block) -> Text:
    line = block.text.rstrip("\n")
    if block.kind == "fence":
        return Text(line, style="dim")
    highlighted = Syntax("", block.language or "text", theme=_CODE_THEME).highlight(line)
    highlighted.rstrip()
    return highlighted


def _fit(items: Sequence[str], width: int) -> list[str]:
    """`items` in lines of at most `width` columns, none of them broken."""
    lines = [items[0]]
    for item in items[1:]:
        joined = f"{lines[-1]} · {item}"
        lines = [*lines[:-1], joined] if len(joined) < width else [*lines, item]
    return [re.sub(r"\s+", " ", line) for line in lines]
