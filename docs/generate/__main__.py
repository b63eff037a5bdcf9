"""Write the generated pages, or with `--check` fail where one that is checked in differs.

Run from the root of the repository: `python -m docs.generate [--check]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .pages import generated_pages, stale_pages

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Write or check; the exit code."""
    pages = generated_pages(ROOT)
    stale = stale_pages(ROOT, pages)
    if arguments == ["--check"]:
        sys.stderr.writelines(f"{path} is not what the code says; run `make docs`\n" for path in stale)
        return int(bool(stale))
    for path in stale:
        target = ROOT / path
        if path in pages:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(pages[path], encoding="utf-8")
        else:
            target.unlink()
        sys.stderr.write(f"{'wrote' if path in pages else 'removed'} {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
