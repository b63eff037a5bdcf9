"""`qwenctl config`: shows the settings and where they come from, lists their files, and creates one.

None of this needs valid settings: errors in them are only warnings here.
"""

from __future__ import annotations

import json as json_format
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from qwenctl.commands.options import common as options
from qwenctl.commands.options.help_pages import HelpCommand, HelpGroup
from qwenctl.commands.options.shell_completion import complete_keys
from qwenctl.settings.defaults import SettingsContext
from qwenctl.terminal.streams import text_writer, warn

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY]...", autocompletion=complete_keys, show_default=False,
        help="Settings to show, such as chat, temp or chat.temp; or -- and a command line, such as -- chat -c 4096.",
    ),
]  # fmt: skip
Origin = Annotated[bool, typer.Option("--origin", help="Show the origin of each value.")]

config_app = typer.Typer(rich_markup_mode=None, cls=HelpGroup)


@config_app.command("show", cls=HelpCommand)
def show_command(
    context: typer.Context, words: Words = None, origin: Origin = False, json: options.Json = False
) -> None:
    """Show the value of every setting, as TOML."""
    from qwenctl.settings.origins import effective_rows, format_toml

    configuration: SettingsContext = context.obj
    settings = configuration.settings
    rows = effective_rows(configuration.root, configuration.commands, settings, words or [])
    problems = list(dict.fromkeys(problem.error.message for problem in settings.problems))
    if json:
        fields = {"settings": list(map(asdict, rows)), "unused": settings.unused, "problems": problems}
        _print(json_format.dumps(fields, ensure_ascii=False))
        return
    for problem in problems:
        warn(problem)
    _print(format_toml(rows, settings.unused, origin=origin))


@config_app.command("path", cls=HelpCommand)
def path_command() -> None:
    """Show which settings files are read, the one that wins first."""
    from qwenctl.settings.toml import local_settings_path, user_settings_path

    for path in (os.path.abspath(local_settings_path()), user_settings_path()):
        _print(f"{'found' if os.path.exists(path) else 'missing'}  {path}")


@config_app.command("init", cls=HelpCommand)
def init_command(context: typer.Context) -> None:
    """Write a settings file with every setting commented out."""
    from qwenctl.settings.origins import example_file, write_new
    from qwenctl.settings.toml import user_settings_path

    configuration: SettingsContext = context.obj
    path = user_settings_path()
    write_new(path, example_file(configuration.commands))
    _print(str(path))


def _print(text: str) -> None:
    text_writer(sys.stdout)(f"{text}\n")
