"""Pulls over a simulated network against `hf download` and one plain connection; plans of the largest model.

Each connection on loopback has a round trip of 30 ms and 50 MB/s. Whole processes are measured, except for the cost of
the hashes, which is measured on the download alone. `hf download` uses plain HTTP, the only protocol of this Hub.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.figures import Figure, at_least, at_most, ratio
from tests.benchmarks.hub_server import hub
from tests.benchmarks.inputs import QWENCTL, make_input
from tests.benchmarks.measure import cost_of
from tests.benchmarks.settings import Settings

RTT, RATE = 0.03, 50e6
_LARGE, _SPLIT = "bench/Large-GGUF", "bench/Split-GGUF"
_FILES = {_LARGE: (("Large-Q8_0.gguf", 1_000_000_000),),
          _SPLIT: tuple((f"Split-Q8_0-{number:05d}-of-00006.gguf", 150_000_000) for number in range(1, 7))}  # fmt: skip


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds of ours and theirs in turn."""
    folders = {name: _make(settings.folder / name.replace("/", "-"), files) for name, files in _FILES.items()}
    with hub(folders, rate=RATE, rtt=RTT) as url:
        for name, what in ((_LARGE, "one file of 1 GB"), (_SPLIT, "six files of 150 MB")):
            yield from _against_others(settings, name, what, url)
        yield _cost_of_hashes(settings, url)
    for folder in folders.values():
        shutil.rmtree(folder)
    yield from _plans(settings)


def _make(folder: Path, files: Sequence[tuple[str, int]]) -> Path:
    """Make incompressible files quickly."""
    folder.mkdir()
    for name, size in files:
        with Path("/dev/urandom").open("rb") as source, (folder / name).open("wb") as file:
            for at in range(0, size, 1 << 24):
                file.write(source.read(min(1 << 24, size - at)))
    return folder


def _against_others(settings: Settings, name: str, what: str, url: str) -> Iterator[Figure]:
    ours, plain, theirs = list[float](), list[float](), list[float]()
    hf, files = Path(sys.executable).parent / "hf", [file for file, _ in _FILES[name]]
    for _ in range(settings.runs):
        for values, command in (
            (ours, [QWENCTL, "pull", f"{name}:Q8_0", "-q"]),
            (plain, [sys.executable, "-m", "tests.benchmarks.plain_fetch", name, settings.folder / "home", *files]),
            (theirs, [hf, "download", name, "--quiet"]),
        ):
            home = settings.folder / "home"
            home.mkdir()
            values.append(cost_of(command, HF_ENDPOINT=url, HF_HOME=str(home), HF_HUB_DISABLE_TELEMETRY="1").wall)
            shutil.rmtree(home)
    yield ratio(f"{what}: speed", plain, ours, "s", at_least(4), "one plain connection")
    yield ratio(f"{what}: speed", theirs, ours, "s", at_least(1), "hf download")


def _cost_of_hashes(settings: Settings, url: str) -> Figure:
    seconds: dict[str, list[float]] = {"hashed": [], "unhashed": []}
    for _ in range(settings.runs):
        for how, values in seconds.items():
            target = settings.folder / "bare"
            target.mkdir()
            command = [sys.executable, "-m", "tests.benchmarks.bare_fetch", how, _LARGE, target]
            values.append(float(cost_of(command, HF_ENDPOINT=url).output))
            shutil.rmtree(target)
    return ratio("time with sha256", seconds["hashed"], seconds["unhashed"], "s", at_most(1.1), "the transfer without")


def _plans(settings: Settings) -> Iterator[Figure]:
    """Plans of the largest model, a sparse checkpoint in the published shapes."""
    source = make_input("published-397b", settings.folder)
    name = "Qwen/Qwen3.5-397B-A17B"
    with hub({name: source}) as url:
        for what, command in (
            ("plan of 397B from the Hub, seconds", ["pull", name, "--quantize", "Q4_K_M", "--dry-run", "--json"]),
            ("where the quants of 397B fit, seconds", ["ls", name, "--json"]),
        ):
            runs = [cost_of([QWENCTL, *command], HF_ENDPOINT=url).wall for _ in range(settings.runs)]
            yield Figure(what, runs, at_most(5), "")
    shutil.rmtree(source, ignore_errors=True)
