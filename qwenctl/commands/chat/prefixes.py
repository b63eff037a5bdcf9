"""`qwenctl prefixes`: lists, shows and deletes prefixes saved by `qwenctl chat --prefix FILE --save-as NAME`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from qwenctl.commands.chat.saved_list import print_list
from qwenctl.commands.options import common as options
from qwenctl.commands.options.given import refuse_before_subcommand
from qwenctl.commands.options.help_pages import HelpCommand, HelpGroup
from qwenctl.commands.options.shell_completion import complete_prefixes
from qwenctl.files.paths import prefixes_folder
from qwenctl.terminal.streams import text_writer

if TYPE_CHECKING:
    from qwenctl.chat.saved.sessions import SessionStore

_HELP = "Saved prefixes, as listed by `qwenctl prefixes`."
Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_prefixes, help=_HELP)]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=complete_prefixes, help=_HELP)]

prefixes_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, cls=HelpGroup)


@prefixes_app.callback()
def list_command(context: typer.Context, json: options.Json = False) -> None:
    """List saved prefixes, the latest first."""
    refuse_before_subcommand(context)
    if context.invoked_subcommand is None:
        print_list(_store(), "prefixes", "qwenctl chat -m MODEL.gguf --prefix FILE --save-as NAME", as_json=json)


@prefixes_app.command("show", cls=HelpCommand)
def show_command(name: Name) -> None:
    """Print the text of a saved prefix."""
    _print(_store().load(name).conversation.system.rstrip("\n"))


@prefixes_app.command("delete", cls=HelpCommand)
def delete_command(names: Names) -> None:
    """Delete saved prefixes."""
    store = _store()
    for name in names:
        store.delete(name)


def _store() -> SessionStore:
    from qwenctl.chat.saved.sessions import SessionStore

    return SessionStore(prefixes_folder(), "prefix")


def _print(text: str) -> None:
    text_writer(sys.stdout)(f"{text}\n")
