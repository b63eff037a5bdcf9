"""What mkdocs needs beside its configuration: links to files outside `docs/` work on a forge, but not on the site."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)+(?:README|CONTRIBUTING|CHANGELOG|LICENSE|tests/|qwenctl/|quantize/)[^)]*\)"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """`markdown` with the links to files of the repository that are no pages as plain text."""
    return _OUTSIDE.sub(r"\1", markdown)
