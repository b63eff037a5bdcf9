"""Commands that write files, for trials in which they are killed or the system fails them, and what must hold then.

A `Subject` is started in the folder `made` of a place that is new for each trial, in the environment that the trial
wants. However that ended, `finish` runs the same command again without a fault and raises AssertionError unless
everything is in place and nothing else is left.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import checkpoints
from tests.support.batching import OPTIONS, short_records, write_lines
from tests.support.command_server import CommandServer, RunningCommand
from tests.support.fake_hub import FakeHub, serve_folder
from tests.support.paths import DATA, TOY
from tests.support.pulling import REPO, assert_whole, environment, one_file_repo
from tests.support.qwen35_layout import Model
from tests.support.session_writer import check_session

_CHECKPOINT, _GGUF = "Qwen/Small", "Toy-Q8_0.gguf"
_SMALL = Model(experts=0, width=64, hidden=64, vision=None)


@dataclass(frozen=True)
class Place:
    """A folder for trials, one after another: `made` for what a command makes, `home` for its caches and state."""

    folder: Path
    server: CommandServer

    @property
    def made(self) -> Path:
        """The working folder of a command."""
        return self.folder / "made"

    @property
    def home(self) -> Path:
        """Where its caches, state and conversations are."""
        return self.folder / "home"

    def clear(self) -> None:
        """Remove all that the last command has left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.made, self.home, self.folder / "outputs"):
            folder.mkdir(parents=True)


@dataclass(frozen=True)
class Subject:
    """A command. `check` is called when it must have succeeded."""

    name: str
    arguments: tuple[str, ...]
    place: Place
    check: Callable[[], None]

    def start(self, **more: str) -> RunningCommand:
        """Start the command, with more environment variables."""
        return self.place.server.start(self.arguments, self.place.made, self.place.folder / "outputs", more)

    def finish(self) -> None:
        """Run the command to its end. Raises AssertionError unless that succeeds and its files are right."""
        code, stderr = self.start().wait()
        assert code == 0, f"the same command ends with {code}: {stderr}"
        self.check()


@contextmanager
def make_subjects(root: Path, preloaded: Path | None = None) -> Iterator[list[Subject]]:
    """The subjects, with what they need in `root` while the block runs; `preloaded` is a library in their processes."""
    source = checkpoints.make(root / "model", _SMALL)
    repo = one_file_repo(root / "gguf", _GGUF, 3_000_000)
    model, records = root / "toy.gguf", write_lines(root / "in.jsonl", short_records(12))
    quantize = [sys.executable, "-m", "qwenctl", "quantize", str(TOY), "-o", str(model), "--type", "Q8_0", "-q"]
    subprocess.run([*quantize, "--no-vision"], check=True, stdout=subprocess.DEVNULL)
    with FakeHub({_CHECKPOINT: serve_folder(source), REPO: repo}) as hub:
        home = root / "place" / "home"
        variables = environment(hub, home, XDG_DATA_HOME=str(home / "data"))
        with CommandServer({**variables, **({"LD_PRELOAD": str(preloaded)} if preloaded else {})}) as server:
            place = Place(root / "place", server)
            mixed = ("--type", "Q4_K_M", "--imatrix", str(DATA / "expected" / "imatrix.gguf"), "--split-max-size", "3M")
            to_file = ("-o", "out.gguf", "-q")
            yield [
                _making("quantize", ("quantize", str(source), "--type", "Q8_0", *to_file), place),
                _making("quantize several files", ("quantize", str(TOY), *mixed, *to_file), place),
                _making("pull --quantize", ("pull", _CHECKPOINT, "--quantize", "Q8_0", *to_file), place),
                Subject(
                    "pull", ("pull", f"{REPO}:Q8_0", "-q"), place, lambda: assert_whole(place.home, repo, _GGUF)
                ),
                _making("batch", ("batch", str(records), "-o", "out.jsonl", "-m", str(model), *OPTIONS, "-q"), place),
                Subject("session", ("tests.support.session_writer",), place, lambda: check_session(place.home)),
            ]  # fmt: skip


def _making(name: str, arguments: tuple[str, ...], place: Place) -> Subject:
    """A command whose files must be those that it makes without a fault; models are registered."""
    place.clear()
    Subject("", arguments, place, lambda: None).finish()
    clean = _hashes(place.made)
    models = sorted(str(place.made / name) for name in clean if name.endswith(".gguf") and "mmproj" not in name)[:1]

    def check() -> None:
        assert _hashes(place.made) == clean
        registry = place.home / "state" / "qwenctl" / "models.jsonl"
        assert all(model in registry.read_text() for model in models)

    return Subject(name, arguments, place, check)


def _hashes(folder: Path) -> Mapping[str, str]:
    """The SHA-256 of each file; of statistics, which have times in them, only that they are there."""
    return {
        path.name: "" if path.name.endswith(".stats.jsonl") else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


def run_trials(
    description: str | None, count: int, trial: Callable[[Subject, int], str], library: Callable[[Path], Path] | None
) -> None:
    """The main function of a script: run `trial` with the numbers up to `--count`, and print how many held.

    A trial returns what it tried, in a word or two, and raises AssertionError if something did not hold. `library`
    makes one that is preloaded, in a folder.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=count, help="number of trials")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, which decides what it does")
    parser.add_argument("--only", default="", help="only this subject")
    options = parser.parse_args()
    held, failed = Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with make_subjects(root, library(root) if library else None) as every:
            subjects = [subject for subject in every if options.only in ("", subject.name)]
            for number in range(options.first, options.first + options.count):
                subject = subjects[number % len(subjects)]
                subject.place.clear()
                if number > options.first and not (number - options.first) % 50:
                    print(f"{number - options.first} trials, {failed} failed", flush=True)
                try:
                    held[trial(subject, number)] += 1
                except AssertionError as error:
                    failed += 1
                    print(f"trial {number}, {subject.name}: {error}", flush=True)
    for what, times in sorted(held.items()):
        print(f"{times:5d}  {what}")
    print(f"{held.total()} of {options.count} held")
    raise SystemExit(failed > 0)
