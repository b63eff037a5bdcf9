"""Paths as terminals and file managers paste them: quoted, with backslashes, or as file:// URLs.

Text comes in, a path that exists goes out. What is in the file is not known here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

_AT = re.compile(r"(?<!\S)@")
# A word of a shell, of parts in quotes and without; what is in one pair of quotes; and all up to the next space.
_FORMS = (
    re.compile(r"""(?:'[^'\n]*'|"(?:\\.|[^"\\\n])*"|\\.|[^\s'"\\])+"""),
    re.compile(r"""'[^'\n]+'|"[^"\n]+\""""),
    re.compile(r"(?:\\.|\S)+"),
)
_PUNCTUATION = ".,;:!?)]}'"


def find_mentions(line: str) -> list[str]:
    """Return the existing files and folders that `line` names, each once: after an @, as terminals paste paths."""
    found: dict[str, None] = {}
    end = 0
    for at in _AT.finditer(line):
        if at.start() < end:
            continue  # inside a path in quotes
        for word in _words(line, at.end()):
            if path := pasted_path(word):
                found[path], end = None, at.end() + len(word)
                break
    return list(found)


def pasted_path(text: str) -> str:
    """Return the path of the existing file or folder that `text` names as terminals paste it; otherwise "".

    That is the path itself, or a word of a shell (in quotes, with backslashes before special characters), or a file://
    URL. A space at the end is no part of it.
    """
    quoted = text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"" else text
    unescaped = re.sub(r"\\(.)", r"\1", text)
    forms = (text, quoted, unescaped, _shell_word(text), file_url_path(quoted), file_url_path(text.strip()))
    return next((form for form in forms if _exists(form)), "")


def split_dropped_file(line: str) -> tuple[str, str]:
    """Return the existing file whose absolute path `line` begins with, as one dropped on a terminal, and the rest.

    Both are "" if the line does not begin so.
    """
    line = line.strip()
    for word in (line, *_words(line, 0)) if line.startswith(("/", "'", '"', "file:/")) else ():
        path = Path(pasted_path(word))
        if path.is_absolute() and path.is_file():
            return str(path), line[len(word) :].strip()
    return "", ""


def typed_path(text: str) -> str:
    """Return the path that `text`, an option's value, means: as `pasted_path`, and of a file:// URL in any case."""
    return pasted_path(text) or file_url_path(text) or text


def file_url_path(text: str) -> str:
    """Return the path in a file:// URL of this machine, also in the short form file:/path; "" if `text` is none."""
    url = re.fullmatch(r"file:(?://(?:localhost)?)?(/(?!/).*)", text)
    if url is None:
        return ""
    from urllib.parse import unquote

    return unquote(url[1])


def _words(line: str, begin: int) -> Iterator[str]:
    """Yield what may be the path that begins at `begin`: the longest first, without the sentence's punctuation last."""
    matches = [match[0] for form in _FORMS if (match := form.match(line, begin))]
    yield from matches
    yield from (word.rstrip(_PUNCTUATION) for word in matches)


def _shell_word(text: str) -> str:
    """Return `text` as a shell reads it, if it is one word; otherwise ""."""
    if not re.search(r"""['"\\]""", text) and text == text.strip():
        return ""
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation mark without its partner
        return ""
    return words[0] if len(words) == 1 else ""


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # the path is too long, ~name is not a user, or there is a NUL in it
        return False
