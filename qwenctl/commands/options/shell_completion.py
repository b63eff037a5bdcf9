"""Shell completion of what typer does not know: quantizations, models, conversations, settings.

The text typed so far comes in, possible completions go out. Nothing here may fail: without completions, the shell
completes file names.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path

import typer

from qwenctl.settings.defaults import SettingsContext

# Names that need no quoting in any shell. Others are not offered: typer's scripts cannot quote them, and zsh evaluates
# what it gets. Files with such names are left to the shell's own completion.
_PLAIN = re.compile(r"[\w@%+:,./~-]+")


def complete_types(incomplete: str) -> list[str]:
    """Names of quantizations."""
    from quantize.recipe.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def complete_models(incomplete: str) -> list[str]:
    """GGUF files in the folder that `incomplete` names and one level below, and names of local models."""
    words = sorted({*_gguf_files(incomplete), *_local_models(checkpoints=False)})
    return [word for word in words if word.startswith(incomplete) and _PLAIN.fullmatch(word)]


def complete_local(incomplete: str) -> list[str]:
    """Names of local models, checkpoints included."""
    return [name for name in dict.fromkeys(_local_models(checkpoints=True)) if name.startswith(incomplete)]


def complete_published(incomplete: str) -> list[str]:
    """Short names of published models."""
    from qwenctl.hub.repository.catalog import load_families

    return [name for name in load_families() if name.startswith(incomplete)]


def complete_sessions(incomplete: str) -> list[str]:
    """Names of saved conversations, the latest first."""
    from qwenctl.files.paths import sessions_folder

    return _saved_names(sessions_folder, incomplete)


def complete_prefixes(incomplete: str) -> list[str]:
    """Names of saved prefixes, the latest first."""
    from qwenctl.files.paths import prefixes_folder

    return _saved_names(prefixes_folder, incomplete)


def _saved_names(folder: Callable[[], Path], incomplete: str) -> list[str]:
    from qwenctl.chat.saved.sessions import SessionStore
    from qwenctl.errors import QwenctlError

    try:
        names = SessionStore(folder()).names()
    except (OSError, QwenctlError):
        return []
    return [name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name)]


def complete_keys(context: typer.Context, incomplete: str) -> list[str]:
    """Commands, names of settings, and both combined, such as `chat.temp`."""
    configuration = context.find_object(SettingsContext)
    commands = configuration.commands if configuration else ()
    dotted = [f"{command.name}.{setting.name}" for command in commands for setting in command.settings]
    names = [setting.name for command in commands for setting in command.settings]
    words = [*(command.name for command in commands), *(dotted if "." in incomplete else names)]
    return [word for word in dict.fromkeys(words) if word.startswith(incomplete)]


@contextmanager
def bash_colon_words() -> Iterator[None]:
    """Inside, typer can complete names with colons in bash, which splits words at colons.

    The words are joined before typer sees them, and what bash already has is cut from the completions that it prints.
    """
    if os.environ.get("_QWENCTL_COMPLETE") != "complete_bash":
        yield
        return
    words, ending = _join_words(os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1])
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    answer = io.StringIO()
    try:
        with redirect_stdout(answer):
            yield
    finally:
        known = words[-1].removesuffix(ending)
        sys.stdout.write("".join(f"{line.removeprefix(known)}\n" for line in answer.getvalue().splitlines()))


def _join_words(words: Sequence[str]) -> tuple[list[str], str]:
    """`words` joined at colons, and the end of the last one, which bash will replace."""
    typed: list[str] = []
    for before, word in pairwise(["", *words]):
        if typed and (word == ":" or before == ":"):
            typed[-1] += word
        else:
            typed.append(word)
    return typed, words[-1].removeprefix(":")


def _local_models(*, checkpoints: bool) -> Iterator[str]:
    from qwenctl.errors import QwenctlError
    from qwenctl.hub.local.installed import CHECKPOINT, find_installed_models

    with suppress(OSError, QwenctlError):
        models = find_installed_models()
        yield from (
            model.name for model in models if checkpoints or not (model.missing_parts or model.quant == CHECKPOINT)
        )


def _gguf_files(incomplete: str) -> Iterator[str]:
    prefix = incomplete[: incomplete.rfind("/") + 1]
    folder = Path(prefix or ".").expanduser()
    for path in (*folder.glob("*.gguf"), *folder.glob("*/*.gguf")):
        yield f"{prefix}{path.relative_to(folder).as_posix()}"
