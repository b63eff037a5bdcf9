"""Commands that write files, for trials in which they are killed or the system fails them, and what must hold then.

A `Subject` is started in a new folder, in the environment that the trial wants. However that ended, `finish` runs the
same command again without a fault and raises AssertionError unless everything is in place and nothing else is left.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import checkpoints
from tests.support.fake_hub import FakeHub, serve_folder
from tests.support.pulling import REPO, assert_whole, command, environment, one_file_repo
from tests.support.qwen35_layout import Model

_CHECKPOINT, _GGUF = "Qwen/Small", "Toy-Q8_0.gguf"
_SMALL = Model(experts=0, width=64, hidden=64, vision=None)


@dataclass(frozen=True)
class Subject:
    """A command. `check` is given its folder, when it must have succeeded."""

    name: str
    arguments: tuple[str, ...]
    hub: FakeHub
    check: Callable[[Path], None]

    def start(self, place: Path, **more: str) -> subprocess.Popen[str]:
        """Start the command in the folder `made` of `place`, with more environment variables."""
        (place / "made").mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            command(*self.arguments), cwd=place / "made", env={**environment(self.hub, place / "home"), **more},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, place: Path) -> None:
        """Run the command to its end. Raises AssertionError unless that succeeds and its files are right."""
        process = self.start(place)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, f"the same command ends with {process.returncode}: {stderr}"
        self.check(place)


@contextmanager
def make_subjects() -> Iterator[list[Subject]]:
    """The subjects, with the Hub and the checkpoint that they need while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = checkpoints.make(root / "model", _SMALL)
        repo = one_file_repo(root / "gguf", _GGUF, 3_000_000)
        with FakeHub({_CHECKPOINT: serve_folder(source), REPO: repo}) as hub:
            quantize = ("quantize", str(source), "-o", "out.gguf", "--type", "Q8_0", "-q")
            stream = ("pull", _CHECKPOINT, "--quantize", "Q8_0", "-o", "out.gguf", "-q")
            yield [
                Subject("quantize", quantize, hub, _same_files(quantize, hub, root / "quantize")),
                Subject("pull --quantize", stream, hub, _same_files(stream, hub, root / "stream")),
                Subject(
                    "pull", ("pull", f"{REPO}:Q8_0", "-q"), hub, lambda place: assert_whole(place / "home", repo, _GGUF)
                ),
            ]


def _same_files(arguments: tuple[str, ...], hub: FakeHub, place: Path) -> Callable[[Path], None]:
    """Run a command without a fault; the check compares with the files that it makes."""
    Subject("", arguments, hub, lambda _: None).finish(place)
    clean = _hashes(place / "made")

    def check(other: Path) -> None:
        assert _hashes(other / "made") == clean
        assert str(other / "made" / "out.gguf") in (other / "home/state/qwenctl/models.jsonl").read_text()

    return check


def _hashes(folder: Path) -> Mapping[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def run_trials(description: str, count: int, trial: Callable[[list[Subject], int, Path], str]) -> None:
    """The main function of a script: run `trial` with the numbers up to `--count`, and print how many held.

    A trial returns what it tried, in a word or two, and raises AssertionError if something did not hold.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=count, help="number of trials")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, which decides what it does")
    options = parser.parse_args()
    held, failed = Counter[str](), 0
    with make_subjects() as subjects:
        for number in range(options.first, options.first + options.count):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    held[trial(subjects, number, Path(folder))] += 1
                except AssertionError as error:
                    failed += 1
                    print(f"trial {number}: {error}", flush=True)
    for what, times in sorted(held.items()):
        print(f"{times:5d}  {what}")
    print(f"{held.total()} of {options.count} held")
    raise SystemExit(failed > 0)
