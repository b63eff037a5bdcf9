"""The command line run in the process of the test, in its own folder and with its own settings."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.support.cli_runner import run


@dataclass(frozen=True)
class Outcome:
    """The output of a command line, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> tuple[str, str, int]:
        """The error line, its hint and the exit code; asserts that nothing else was printed."""
        found = re.fullmatch(r"qwenctl: error: (.*)\n(?:  hint: (.*)\n)?", self.stderr)
        assert found, self
        assert self.stdout == ""
        return found[1], found[2] or "", self.code


@contextmanager
def settings(folder: str | bytes = "", user: str | bytes = "", **variables: str) -> Iterator[Path]:
    """Inside the context the current folder is new, with `folder` as its qwenctl.toml and `user` as the user's file."""
    saved = {name: value for name, value in os.environ.items() if not name.startswith("QWENCTL_")}
    with tempfile.TemporaryDirectory() as root:
        here, home = Path(root).resolve() / "here", Path(root).resolve() / "config"
        for path, text in ((here / "qwenctl.toml", folder), (home / "qwenctl" / "config.toml", user)):
            path.parent.mkdir(parents=True)
            if text:
                path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        own = {f"XDG_{kind}_HOME": str(home.parent / kind.lower()) for kind in ("CONFIG", "DATA", "STATE", "CACHE")}
        environment = {**saved, **own, **variables}
        with chdir(here), patch.dict(os.environ, environment, clear=True):
            yield here


def call(*arguments: str) -> Outcome:
    """Run a command line with an empty standard input."""
    done = run(*arguments, stdin=b"")
    return Outcome(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def shown(*words: str) -> dict[str, tuple[Any, str]]:
    """The value and origin of each setting in `qwenctl config show`, by dotted name."""
    done = call("config", "show", "--json", *words)
    assert done.code == 0, done
    rows: list[Mapping[str, Any]] = json.loads(done.stdout)["settings"]
    return {f"{row['command']}.{row['key']}": (row["value"], row["origin"]) for row in rows}
