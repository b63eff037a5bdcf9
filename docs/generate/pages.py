"""All generated pages as a mapping from path to text, and which of those on the disk differ from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .cli_reference import cli_page
from .command_line import read_commands
from .exit_codes import exit_codes_page
from .json_reference import json_pages
from .man_pages import man_pages

MAN_FOLDER = "docs/man"


def generated_pages(root: Path) -> dict[str, str]:
    """The text of each generated page, by its path below `root`. Raises ValueError where a field is not described."""
    commands = read_commands()
    return {
        "docs/reference/cli.md": cli_page(commands),
        "docs/reference/exit-codes.md": exit_codes_page(),
        **{f"docs/reference/{name}.md": text for name, text in json_pages(root).items()},
        **{f"{MAN_FOLDER}/{name}": text for name, text in man_pages(commands).items()},
    }


def stale_pages(root: Path, pages: Mapping[str, str]) -> list[str]:
    """The paths whose file is missing or differs, and man pages of commands that are gone."""
    left = [str(path.relative_to(root)) for path in sorted((root / MAN_FOLDER).glob("*.1"))]
    return [path for path in pages if _read(root / path) != pages[path]] + [path for path in left if path not in pages]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
