"""The command `qwenctl`: its subcommands, and the one place where an error becomes text and an exit code.

Arguments come in, an exit code goes out. Nothing heavy is imported before a subcommand runs, so that `--help` is fast.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from qwenctl import __version__
from qwenctl.commands.batch.command import batch_command
from qwenctl.commands.bench import bench_command
from qwenctl.commands.chat.command import chat_command
from qwenctl.commands.chat.prefixes import prefixes_app
from qwenctl.commands.chat.sessions import sessions_app
from qwenctl.commands.config import config_app
from qwenctl.commands.doctor import doctor_command
from qwenctl.commands.models.clean import clean_command
from qwenctl.commands.models.ls import ls_command
from qwenctl.commands.models.pull import pull_command
from qwenctl.commands.models.rm import rm_command
from qwenctl.commands.models.show import show_command
from qwenctl.commands.models.verify import verify_command
from qwenctl.commands.options.common import with_optional_values
from qwenctl.commands.options.convert_values import convert_plain_values
from qwenctl.commands.options.help_pages import HelpCommand, HelpGroup
from qwenctl.commands.options.shell_completion import bash_colon_words
from qwenctl.commands.plan import plan_command
from qwenctl.commands.quantize.command import quantize_command
from qwenctl.commands.tune import tune_command
from qwenctl.commands.worker import worker_command
from qwenctl.errors import ExitCode, QwenctlError, explain
from qwenctl.settings.defaults import SettingsContext
from qwenctl.settings.usage_errors import explain_usage
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.signals import TERMINATIONS, requested_exit, termination_as_exit

app = typer.Typer(
    cls=HelpGroup,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # subcommands inherit it
)
app.command("pull", cls=HelpCommand)(pull_command)
app.command("ls", cls=HelpCommand)(ls_command)
app.command("show", cls=HelpCommand)(show_command)
app.command("verify", cls=HelpCommand)(verify_command)
app.command("rm", cls=HelpCommand)(rm_command)
app.command("clean", cls=HelpCommand)(clean_command)
app.command("quantize", cls=HelpCommand)(quantize_command)
app.command("chat", cls=HelpCommand)(chat_command)
app.command("plan", cls=HelpCommand)(plan_command)
app.command("batch", cls=HelpCommand)(batch_command)
app.command("bench", cls=HelpCommand)(bench_command)
app.command("tune", cls=HelpCommand)(tune_command)
app.command("doctor", cls=HelpCommand)(doctor_command)
app.command("worker", cls=HelpCommand)(worker_command)
app.add_typer(sessions_app, name="sessions", help="List, show, export and delete saved conversations.")
app.add_typer(prefixes_app, name="prefixes", help="List, show and delete saved prefixes.")
app.add_typer(config_app, name="config", help="Show settings and where they come from.")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qwenctl {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("-V", "--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")] = False,
) -> None:
    """Download, quantize and run Qwen3.5 models on this machine."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


@functools.cache
def _root_command() -> Any:
    """typer's root command, which takes longer to make than most error messages: once for each process."""
    root = typer.main.get_command(app)
    convert_plain_values(root)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors are shown here, and none is raised."""
    given = _with_help_command(with_optional_values(sys.argv[1:] if arguments is None else arguments))
    # What follows "--" is text, never an option: a prompt may contain --debug.
    options = given[: given.index("--")] if "--" in given else given
    settings = SettingsContext(_root_command())
    try:
        with termination_as_exit():
            code = _run(settings, [*(option for option in options if option != "--debug"), *given[len(options) :]])
            try:
                _flush()
            except OSError:
                if code not in TERMINATIONS.values():
                    raise
                _abandon_output()  # after the signal that says that the terminal is gone
        return code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError as error:
        _abandon_output()
        return requested_exit(error) or ExitCode.BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the boundary where every error becomes a message
        if "--debug" in options:
            traceback.print_exception(error)
        failure = explain_usage(error, given) or explain(error)
        _show_failure(failure, as_json="--json" in options or settings.json)
        return requested_exit(error) or failure.code


def _with_help_command(given: list[str]) -> list[str]:
    """`given` with `COMMAND --help` for `help COMMAND`."""
    return [*given[1:], "--help"] if given[:1] == ["help"] else given


def _run(settings: SettingsContext, arguments: list[str]) -> int:
    try:
        with bash_colon_words():
            result = settings.run(arguments)
    except SystemExit as exit_request:
        # typer turns a broken pipe into exit code 1.
        if isinstance(exit_request.__context__, BrokenPipeError):
            raise exit_request.__context__ from None
        return exit_request.code if isinstance(exit_request.code, int) else ExitCode.BUG
    return result if isinstance(result, int) else ExitCode.OK


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _abandon_output() -> None:
    """Redirect standard output to the null device, so that the interpreter's flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _show_failure(failure: QwenctlError, *, as_json: bool) -> None:
    code, message, hint = failure.code, clean_line(failure.message), clean_line(failure.hint)
    if as_json:
        fields = {"code": code.name.lower(), "message": message, "hint": hint, "exit": int(code)}
        stream, text = sys.stdout, json.dumps({"error": fields}) + "\n"
    else:
        stream, text = sys.stderr, f"qwenctl: error: {message}\n" + (f"  hint: {hint}\n" if hint else "")
    try:
        stream.write(text)
        stream.flush()
    except (OSError, AttributeError):  # closed, or None because it was closed from the start
        _abandon_output()
