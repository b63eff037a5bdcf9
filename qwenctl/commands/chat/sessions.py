"""`qwenctl sessions`: lists, shows, exports and deletes saved conversations."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qwenctl.commands.chat.saved_list import list_row, print_list, row_text
from qwenctl.commands.options import common as options
from qwenctl.commands.options.given import refuse_before_subcommand
from qwenctl.commands.options.help_pages import HelpCommand, HelpGroup
from qwenctl.commands.options.shell_completion import complete_sessions
from qwenctl.files.paths import file_in_folder, missing_folder, parse_output, sessions_folder
from qwenctl.terminal.streams import text_writer

if TYPE_CHECKING:
    from qwenctl.chat.saved.sessions import SessionStore

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", autocompletion=complete_sessions, help="Saved conversation, as listed by `qwenctl sessions`."
    ),
]
Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        autocompletion=complete_sessions,
        help="Saved conversations, as listed by `qwenctl sessions`.",
    ),
]
Format = Annotated[Literal["markdown", "json"], typer.Option("--format", help="Output format.")]
Target = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE", parser=parse_output,
        help="File to write, or a folder, which is created if it ends in /; default: standard output.",
    ),
]  # fmt: skip
_ENDINGS = {"markdown": ".md", "json": ".json"}

sessions_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, cls=HelpGroup)


@sessions_app.callback()
def list_command(context: typer.Context, json: options.Json = False) -> None:
    """List saved conversations, the latest first."""
    refuse_before_subcommand(context)
    if context.invoked_subcommand is None:
        print_list(_store(), "conversations", "qwenctl chat -m MODEL.gguf", as_json=json)


@sessions_app.command("show", cls=HelpCommand)
def show_command(name: Name, json: options.Json = False) -> None:
    """Show a saved conversation and its settings."""
    from qwenctl.chat.saved.export import export_text

    store = _store()
    session = store.load(name, any_role=True)
    if json:
        messages = json_format.loads(export_text(session.conversation, "json"))
        _print(json_format.dumps({**list_row(store, name), **messages}, ensure_ascii=False))
    else:
        _print(f"{name}  {row_text(list_row(store, name))}\n\n{export_text(session.conversation, 'markdown').rstrip()}")


@sessions_app.command("export", cls=HelpCommand)
def export_command(name: Name, form: Format = "markdown", output: Target = None) -> None:
    """Write a saved conversation as Markdown or JSON."""
    from qwenctl.chat.saved.export import export_text

    text = export_text(_store().load(name, any_role=True).conversation, form)
    if output is None:
        _print(text.rstrip("\n"))
    else:
        path = file_in_folder(output, f"{name}{_ENDINGS[form]}")
        with missing_folder(output), path.open("x", encoding="utf-8") as file:
            file.write(text)


@sessions_app.command("delete", cls=HelpCommand)
def delete_command(names: Names) -> None:
    """Delete saved conversations."""
    store = _store()
    for name in names:
        store.delete(name)


def _store() -> SessionStore:
    from qwenctl.chat.saved.sessions import SessionStore

    return SessionStore(sessions_folder())


def _print(text: str) -> None:
    text_writer(sys.stdout)(f"{text}\n")
