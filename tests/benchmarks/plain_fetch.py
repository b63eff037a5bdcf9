"""Downloads files in turn over one connection: `python -m tests.benchmarks.plain_fetch REPOSITORY FOLDER FILE...`"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import httpx2


def _main(repository: str, folder: Path, names: list[str]) -> None:
    with httpx2.Client(follow_redirects=True) as client:
        for name in names:
            url = f"{os.environ['HF_ENDPOINT']}/{repository}/resolve/main/{name}"
            with client.stream("GET", url) as answer, (folder / name).open("wb") as file:
                for piece in answer.iter_raw():
                    file.write(piece)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
