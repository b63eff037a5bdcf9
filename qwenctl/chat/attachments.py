"""Files that go into a question: a file, or all of a folder that git would keep.

A path or a line comes in, named texts go out, and a question with the texts before it. Only text is taken; what a file
holds is content, whatever it says (`engine.prompt` sees to that). Nothing here knows a terminal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.terminal.sanitize import decode

MAX_BYTES = 16 * 2**20  # of all files together: more than any context holds
_MAX_FILES = 2000
_MENTION = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
_PUNCTUATION = ".,;:!?)]}'"


@dataclass(frozen=True)
class Attachment:
    """A text with the name it goes by."""

    name: str
    text: str


def read_attachments(path: str) -> tuple[Attachment, ...]:
    """The file at `path`, or the text files below it if it is a folder. Raises QwenctlError if there is nothing."""
    root = Path(path).expanduser()
    if root.is_dir():
        found = tuple(_read_folder(root))
        if not found:
            raise QwenctlError(f"no text files in {root}", "", ExitCode.NO_INPUT)
        return found
    try:
        data = _read(root)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise QwenctlError(f"{root}: {reason}", "", ExitCode.NO_INPUT) from error
    if not _is_text(data):
        raise QwenctlError(f"{root} is not text", "", ExitCode.BAD_DATA)
    return (Attachment(str(root), decode(data, lambda _: None)),)


def find_mentions(line: str) -> list[str]:
    """The paths of existing files and folders that `line` names as @path or @"path"."""
    names = (quoted or plain for quoted, plain in _MENTION.findall(line))
    candidates = (name if _exists(name) else name.rstrip(_PUNCTUATION) for name in names)
    return list(dict.fromkeys(name for name in candidates if _exists(name)))


def prepend_attachments(question: str, attachments: Sequence[Attachment]) -> str:
    """`question` after the texts, each in a fence that is longer than any inside."""
    parts = [f"{attachment.name}:\n{code_fence(attachment.text)}" for attachment in attachments]
    return "\n\n".join([*parts, question])


def code_fence(text: str) -> str:
    """`text` as a block of Markdown that shows it as it is."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except (OSError, RuntimeError):  # too long for a path, or the home of nobody
        return False


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES or not path.is_file():
        raise QwenctlError(f"{path} is not a file of at most {MAX_BYTES >> 20} MiB", "", ExitCode.BAD_DATA)
    return path.read_bytes()


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:8192]


def _read_folder(root: Path) -> Iterator[Attachment]:
    left = MAX_BYTES
    for count, path in enumerate(_files(root, [])):
        data = _read(path) if path.stat().st_size <= left else b"\0" * (left + 1)
        left -= len(data)
        if left < 0 or count >= _MAX_FILES:
            raise QwenctlError(
                f"{root} has more than {MAX_BYTES >> 20} MiB or {_MAX_FILES:,} files",
                "a subfolder",
                ExitCode.BAD_DATA,
            )
        if _is_text(data):
            yield Attachment(str(path), decode(data, lambda _: None))


def _files(folder: Path, ignored: list[tuple[Path, GitIgnoreSpec]]) -> Iterator[Path]:
    """The files below `folder` that no .gitignore names, in order; links are not followed."""
    rules = folder / ".gitignore"
    if rules.is_file():
        lines = rules.read_text("utf-8", "replace").splitlines()
        ignored = [*ignored, (folder, GitIgnoreSpec.from_lines(lines))]
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path, is_folder = Path(entry.path), entry.is_dir(follow_symlinks=False)
        if entry.name == ".git" or _is_ignored(path, ignored, is_folder=is_folder):
            continue
        if is_folder:
            yield from _files(path, ignored)
        elif entry.is_file(follow_symlinks=False):
            yield path


def _is_ignored(path: Path, ignored: list[tuple[Path, GitIgnoreSpec]], *, is_folder: bool) -> bool:
    """By the nearest .gitignore that says anything about `path`."""
    for base, spec in reversed(ignored):
        name = path.relative_to(base).as_posix() + "/" * is_folder
        verdict = spec.check_file(name).include
        if verdict is not None:
            return verdict
    return False
