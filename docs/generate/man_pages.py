"""Man pages, section 1, a page for each command: `man qwenctl`, `man qwenctl-chat`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from qwenctl import __version__
from qwenctl.errors import ExitCode

from .command_line import CommandHelp, ParameterHelp


def man_pages(commands: Sequence[CommandHelp]) -> dict[str, str]:
    """The text of each page, by its file name."""
    return {f"{_page(command)}.1": "".join(_lines(command, commands)) for command in commands}


def _page(command: CommandHelp) -> str:
    return "-".join(("qwenctl", *command.path))


def _lines(command: CommandHelp, commands: Sequence[CommandHelp]) -> Iterator[str]:
    page = _page(command)
    summary = (command.paragraphs or ("",))[0].rstrip(".")
    yield '.\\" Made from the code by `make docs`; changes here are lost.\n'
    yield f'.TH {page.upper()} 1 "" "qwenctl {__version__}"\n'
    yield f".SH NAME\n{_roff(page)} \\- {_roff(summary)}\n"
    name, rest = command.name, command.usage.removeprefix(command.name).strip()
    yield f".SH SYNOPSIS\n.B {_roff(name)}\n{_roff(rest)}\n" if rest else f".SH SYNOPSIS\n.B {_roff(name)}\n"
    yield ".SH DESCRIPTION\n"
    yield from (f".PP\n{_roff(paragraph)}\n" for paragraph in command.paragraphs)
    yield from _parameters("Commands", [replace(one, names=f"{page}-{one.names}(1)") for one in command.subcommands])
    yield from _parameters("Arguments", command.arguments)
    for title, options in command.options:
        yield from _parameters(title, options)
    if command.examples:
        yield ".SH EXAMPLES\n"
        yield from (f".PP\n.nf\n{_roff(example)}\n.fi\n" for example in command.examples)
    if not command.path:
        yield ".SH EXIT STATUS\n"
        yield from (f".TP\n.B {int(code)}\n{_roff(code.meaning)}\n" for code in ExitCode)
    others = [one for one in commands if _is_near(one, command)]
    yield ".SH SEE ALSO\n" + ",\n".join(f".BR {_roff(_page(one))} (1)" for one in others).replace(",\n", " ,\n") + "\n"


def _is_near(one: CommandHelp, command: CommandHelp) -> bool:
    """Whether `one` is a page that a reader of `command` may want: the one above it, or one just below."""
    below = one.path[:-1] == command.path and one.path != command.path
    return below or (command.path != () and one.path == command.path[:-1])


def _parameters(title: str, parameters: Sequence[ParameterHelp]) -> Iterator[str]:
    if parameters:
        yield f".SH {title.upper()}\n"
    for one in parameters:
        note = f" ({_roff(one.note)})" if one.note else ""
        yield f".TP\n.B {_roff(one.names)}\n{_roff(one.meaning)}{note}\n"


def _roff(text: str) -> str:
    """`text` so that roff prints it: hyphens that can be pasted, and no line that begins like a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    text = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in text)
    return f"\\&{text}" if text[:1] in (".", "'") else text
