"""Files that go into a question: one text file, or all text files of a folder that git would not ignore.

A path or a line of input comes in; named texts go out, and a question with the texts before it. A file is content only:
special tokens in it are not obeyed (`engine.prompt` sees to that). The terminal is not known here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.text_check import decode_text, find_other_kind
from qwenctl.terminal.sanitize import decode

MAX_BYTES = 16 * 2**20  # of all files together: more than any context holds
_MAX_FILES = 2000


@dataclass(frozen=True)
class Attachment:
    """The text of a file, and the name that it has in the prompt."""

    name: str
    text: str


def read_attachments(path: str) -> tuple[Attachment, ...]:
    """Read the file at `path`, or the text files below it if it is a folder.

    Raises QwenctlError if there is no text, or more than `MAX_BYTES` or 2,000 files.
    """
    root = Path(path).expanduser()
    if root.is_dir():
        attachments = tuple(_read_folder(root))
        if not attachments:
            raise QwenctlError(f"no text files in {root}", "", ExitCode.NO_INPUT)
        return attachments
    try:
        data = _read(root)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise QwenctlError(f"{root}: {reason}", "", ExitCode.NO_INPUT) from error
    return (Attachment(str(root), decode_text(data, str(root), "qwenctl chat")),)


def prepend_attachments(question: str, attachments: Sequence[Attachment]) -> str:
    """Return `question` with the attachments before it, each under its name in a code fence."""
    parts = [f"{attachment.name}:\n{code_fence(attachment.text)}" for attachment in attachments]
    return "\n\n".join([*parts, question])


def code_fence(text: str) -> str:
    """Return `text` as a fenced code block of Markdown."""
    # The fence must be longer than any run of backticks in the text, or the text would end it.
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES or not path.is_file():
        raise QwenctlError(f"{path} is not a file of at most {MAX_BYTES >> 20} MiB", "", ExitCode.BAD_DATA)
    return path.read_bytes()


def _read_folder(root: Path) -> Iterator[Attachment]:
    left = MAX_BYTES
    for count, path in enumerate(_iter_files(root, [])):
        # A file that no longer fits is not read; its size alone uses up what is left.
        data = _read(path) if path.stat().st_size <= left else b"\0" * (left + 1)
        left -= len(data)
        if left < 0 or count >= _MAX_FILES:
            raise QwenctlError(
                f"{root} has more than {MAX_BYTES >> 20} MiB or {_MAX_FILES:,} files",
                "attach a subfolder",
                ExitCode.BAD_DATA,
            )
        if find_other_kind(data) is None:
            yield Attachment(str(path), decode(data, lambda _: None))


def _iter_files(folder: Path, ignored: list[tuple[Path, GitIgnoreSpec]]) -> Iterator[Path]:
    """Yield the files below `folder` that no .gitignore excludes, sorted by name; links are not followed."""
    rules = folder / ".gitignore"
    if rules.is_file():
        lines = rules.read_text("utf-8", "replace").splitlines()
        ignored = [*ignored, (folder, GitIgnoreSpec.from_lines(lines))]
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path, is_folder = Path(entry.path), entry.is_dir(follow_symlinks=False)
        if entry.name == ".git" or _is_ignored(path, ignored, is_folder=is_folder):
            continue
        if is_folder:
            yield from _iter_files(path, ignored)
        elif entry.is_file(follow_symlinks=False):
            yield path


def _is_ignored(path: Path, ignored: list[tuple[Path, GitIgnoreSpec]], *, is_folder: bool) -> bool:
    """Tell whether git ignores `path`: the nearest .gitignore with a matching rule decides."""
    for base, spec in reversed(ignored):
        name = path.relative_to(base).as_posix() + "/" * is_folder
        verdict = spec.check_file(name).include
        if verdict is not None:
            return verdict
    return False
