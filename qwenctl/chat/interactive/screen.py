"""What a chat shows: blocks of Markdown printed once, and below them a small region that is redrawn.

Events of the engine come in; text goes to the terminal. Only the unfinished block, the thinking and the progress are in
the redrawn region, which is never taller than the terminal, so that nothing is printed twice. All text of a model is
cleaned of control characters. This is the only module of the chat that knows rich.
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
from qwenctl.views.answer import format_finish_reason, format_prefill, format_statistics

ColorChoice = Literal["auto", "always", "never"]
_REDRAWS_PER_SECOND = 15
_RESULT_LINES = 6
_CODE_THEME = "ansi_dark"  # the terminal's own 16 colors, readable on any background


def make_console(color: ColorChoice, file: TextIO | None = None) -> Console:
    """Return a console that writes text unchanged: no markup, no emoji names, no automatic highlighting."""
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

    def show_note(self, *lines: str) -> None:
        """Print messages of the program, dimmed."""
        for line in lines:
            self._console.print(Text(clean(line), style="dim"))

    def show_error(self, error: QwenctlError) -> None:
        """Print an error that does not end the chat, with its hint."""
        self._console.print(Text.assemble(("error: ", "red"), clean_line(error.message)), soft_wrap=True)
        if error.hint:
            self._console.print(Text(f"  hint: {clean_line(error.hint)}", style="dim"), soft_wrap=True)

    def follow_loading(self, name: str, events: Iterable[LoadProgress | ModelInfo]) -> ModelInfo:
        """Show the progress of loading `name`; return the model. Raises QwenctlError if the events end without one."""
        columns = (TextColumn("loading {task.description}", markup=False), BarColumn(), TaskProgressColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(clean_line(name), total=1.0)
            for event in events:
                if isinstance(event, ModelInfo):
                    return event
                progress.update(task, completed=event.fraction)
        raise QwenctlError("the engine stopped without loading a model")

    def follow_prefill(self, events: Iterable[PrefillProgress | PrefixReady]) -> PrefixReady:
        """Show the progress of evaluating a prefix; return the result. Raises QwenctlError if the events end before."""
        with Live(console=self._console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
            for event in events:
                if isinstance(event, PrefixReady):
                    return event
                line = Text(format_prefill(event, "the prefix (Ctrl-C stops and saves the progress)"), style="dim")
                live.update(line, refresh=True)
        raise QwenctlError("the engine stopped while it evaluated the prompt")

    def replay(self, messages: Sequence[Message]) -> None:
        """Print the end of an earlier conversation: its last question and answer."""
        last = max((at for at, message in enumerate(messages) if message.role == "user"), default=len(messages))
        if last > 0:
            self.show_note(f"… {last:,} earlier messages")
        for message in messages[last:]:
            if message.role == "user":
                images = "".join(f"[{clean_line(media.name)}] " for media in message.media)
                self._console.print(Text(f"> {images}{truncate_middle(clean(message.content))}"))
            elif message.role == "tool":
                self.show_result(message.content)
            else:
                with self.show_answer() as view:
                    view.show(TextDelta(message.content, "answer"))
                for call in message.tool_calls:
                    self.show_call(format_call(call), whole=False)

    def show_call(self, line: str, *, whole: bool) -> None:
        """Print a tool call, cut to one line; all of it if `whole`, for the user to decide on."""
        text = Text(f"→ {line}")
        if whole:
            self._console.print(text, soft_wrap=True)
        else:
            self._console.print(text, overflow="ellipsis", no_wrap=True)

    def show_result(self, text: str) -> None:
        """Print the first lines of a tool's result."""
        lines = clean(text).strip("\n").splitlines()
        shown = lines[:_RESULT_LINES]
        if len(lines) > len(shown):
            shown.append(f"… {len(lines) - len(shown):,} more lines")
        for line in shown:
            self._console.print(Text(f"  {line}", style="dim"), overflow="ellipsis", no_wrap=True)

    def copy_to_clipboard(self, text: str) -> None:
        """Copy `text` to the terminal's clipboard with the escape sequence OSC 52, which works through ssh too."""
        if self._console.is_terminal:
            self._console.file.write(f"\x1b]52;c;{b64encode(text.encode()).decode()}\a")
            self._console.file.flush()

    @contextmanager
    def show_waiting(self, what: str) -> Iterator[None]:
        """Inside, show `what` with a spinner."""
        with self._console.status(Text(what, style="dim")):
            yield

    @contextmanager
    def show_answer(self) -> Iterator[AnswerView]:
        """Inside, a view shows one answer; on leaving, even by an exception, all of its text is printed."""
        with Live(console=self._console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
            view = AnswerView(self._console, live)
            try:
                yield view
            finally:
                view.close()

    def show_finish(self, finished: GenerationFinished, loaded: ModelInfo, max_tokens: int) -> None:
        """Print the line below an answer: why it was cut short, if it was, and its statistics."""
        items = format_statistics(finished, loaded.context_tokens)
        why = format_finish_reason(finished, max_tokens)
        self._console.print()
        for line in _fit([f"[{why}]", *items] if why else items, self._console.width):
            self._console.print(Text(line, style="dim"), soft_wrap=True)
        if finished.reason != "context" and finished.usage.context_used > 0.8 * loaded.context_tokens:
            self.show_note("the context is nearly full: /clear or /undo frees space, -c sets a larger context")


class AnswerView:
    """One answer on the terminal. `text`, `thinking` and `calls` are what the model wrote, unchanged."""

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
        """The text of the answer so far."""
        return "".join(self._pieces["answer"])

    @property
    def thinking(self) -> str:
        """The thinking so far."""
        return "".join(self._pieces["thinking"])

    @property
    def calls(self) -> str:
        """The text of the tool calls, tags included; it is on the screen only while the model writes it."""
        return "".join(self._pieces["call"])

    def show(self, event: PrefillProgress | TextDelta) -> None:
        """Add one event of the answer to the view."""
        if isinstance(event, PrefillProgress):
            self._redraw(lambda: Text(format_prefill(event), style="dim"))
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
        """Print the unfinished block: the answer has ended."""
        self._collapse_thinking()
        self._print(self._markdown.finish())
        self._live.update(Text(""))

    def _show_thinking(self, shown: str) -> None:
        if self._thinking_since is None:
            self._thinking_since = time.monotonic()
        # Only the end is ever drawn. Keeping a screenful makes the cost of an update independent of the length.
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
        """Print finished blocks, and remove them from the redrawn region."""
        if blocks:
            self._live.update(self._open_block())
        for block in blocks:
            if block.kind == "markdown" and not block.text.strip():
                continue
            if self._printed and (block.kind == "markdown" or (block.kind == "fence" and self._opens_code(block))):
                self._console.print()
            if block.kind == "markdown":
                self._console.print(self._render_block(block.text))
            else:
                self._console.print(_code_line(block), soft_wrap=True)
            self._printed = block

    def _render_block(self, text: str) -> SegmentLines:
        """Render one block of Markdown, without the empty lines that rich puts around lists and tables."""
        lines = self._console.render_lines(_ChatMarkdown(text, hyperlinks=False, code_theme=_CODE_THEME), pad=False)
        filled = [at for at, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        return SegmentLines(lines[filled[0] : filled[-1] + 1] if filled else [], new_lines=True)

    def _opens_code(self, fence: Block) -> bool:
        """Whether `fence` opens a code block; a closing fence has no language and does not follow Markdown."""
        return bool(fence.language) or (self._printed is not None and self._printed.kind == "markdown")

    def _redraw(self, region: Callable[[], Text]) -> None:
        """Redraw the region, at most `_REDRAWS_PER_SECOND` times a second."""
        now = time.monotonic()
        if now - self._redrawn_at >= 1 / _REDRAWS_PER_SECOND:
            self._redrawn_at = now
            self._live.update(region(), refresh=True)

    def _open_block(self) -> Text:
        return self._tail(self._markdown.open_text.lstrip("\n"), "")

    def _tail(self, text: str, style: str) -> Text:
        """Return the last lines of `text` that fit on the terminal, with a few lines to spare."""
        width, height = self._console.width, max(1, self._console.height - 4)
        near = Text(text[-width * height :].rstrip("\n"), style=style)
        return Text("\n", style=style).join(near.wrap(self._console, width)[-height:])


class _PlainHeading(Heading):
    """A left-aligned heading; rich would center it and put the first level in a box."""

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
    """Join `items` into lines of at most `width` columns, without breaking an item."""
    lines = [items[0]]
    for item in items[1:]:
        joined = f"{lines[-1]} · {item}"
        lines = [*lines[:-1], joined] if len(joined) < width else [*lines, item]
    return [re.sub(r"\s+", " ", line) for line in lines]
