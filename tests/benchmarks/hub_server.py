"""A fake Hub in a separate process, so that it does not share an interpreter with the measured code.

`python -m tests.benchmarks.hub_server FOLDER RATE RTT NAME=FOLDER...` prints its address and runs until its standard
input ends. Shards that are only holes are not hashed: they serve only for plans.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.fake_hub import FakeHub, Repo, ServedFile, serve_folder


@contextmanager
def hub(repos: Mapping[str, Path], *, rate: float = 0, rtt: float = 0) -> Iterator[str]:
    """The address of a Hub with these folders as repositories, while the block runs."""
    served = [f"{name}={folder}" for name, folder in repos.items()]
    command = [sys.executable, "-m", "tests.benchmarks.hub_server", str(rate), str(rtt), *served]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def _served(folder: Path) -> Repo:
    holes = {path.name: path for path in folder.glob("*.safetensors") if _is_hole(path)}
    made_up = {
        name: ServedFile(name, path, path.stat().st_size, f"{number:064x}", f"{number:040x}")
        for number, (name, path) in enumerate(sorted(holes.items()))
    }
    if not made_up:
        return serve_folder(folder)
    small = serve_folder(folder, leave_out=frozenset(made_up))
    return Repo({**small.files, **made_up}, small.commit, {})


def _is_hole(path: Path) -> bool:
    """Whether a file occupies far less disk space than its length."""
    found = os.stat(path)
    return found.st_size > 1 << 20 and found.st_blocks * 512 < found.st_size // 4


if __name__ == "__main__":
    _, _rate, _rtt, *_repos = sys.argv
    _folders = {name: _served(Path(folder)) for name, folder in (text.split("=", 1) for text in _repos)}
    with FakeHub(_folders, rate=float(_rate), rtt=float(_rtt), cdn=True) as _hub:
        print(_hub.url, flush=True)
        sys.stdin.read()
