"""Startup times of `qwenctl --help` and of a first answer.

The first is compared with an empty Python and one that imports only typer; the second, of a new process that loads the
model, with llama-cli (the model file is in the page cache for both). An answer counts when its text is in the pipe.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.figures import Figure, at_most, ratio
from tests.benchmarks.inputs import QWENCTL, make_toy_gguf
from tests.benchmarks.measure import Cost, cost_of
from tests.benchmarks.settings import Settings

_HEAVY = ("numpy", "llama_cpp", "gguf", "huggingface_hub", "rich")
_IMPORTED = "import sys; from qwenctl.cli import main; main(['--help']); print('imported:', *sys.modules)"
_QUESTION, _ANSWER = "What is the capital of France?", b"Paris"
# The goals: 200 ms; at most 3.5 times an empty Python; first token within 1.15 of llama-cli.
_MILLISECONDS, _TIMES_PYTHON, _TIMES_LLAMA_CLI = at_most(200), at_most(3.5), at_most(1.15)


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds of ours and llama.cpp's in turn."""
    yield from _help(settings)
    modules = subprocess.run([sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True)
    heavy = set(modules.stdout.split("imported:")[1].split()) & set(_HEAVY)
    yield Figure(f"--help: imported of {', '.join(_HEAVY)}", [float(len(heavy))], at_most(0), "", " ".join(heavy))
    yield from _first_answer(settings)


def _help(settings: Settings) -> Iterator[Figure]:
    commands = ([QWENCTL, "--help"], [sys.executable, "-c", "pass"], [sys.executable, "-c", "import typer"])
    rounds = [[1000 * cost_of(command).cpu for command in commands] for _ in settings.rounds(4)]
    ours, python, typer = ([costs[number] for costs in rounds] for number in range(3))
    yield Figure("--help: CPU ms", ours, _MILLISECONDS, "")
    yield ratio("--help: CPU time", ours, python, "ms", _TIMES_PYTHON, "python -c pass")
    yield ratio("--help: CPU time", ours, typer, "ms", None, "python -c 'import typer'")


def _first_answer(settings: Settings) -> Iterator[Figure]:
    model = make_toy_gguf(settings.folder)
    chat = [QWENCTL, "chat", "-m", model, "--no-think", "--temp", "0", "-c", "32768", "-t", "1", _QUESTION]
    if settings.peer is None:
        yield Figure("new process: seconds to the answer", [cost_of(chat, _ANSWER).first for _ in settings.rounds()],
                     None, "")  # fmt: skip
        return
    options = ("--temp", "0", "-c", "32768", "-rea", "off")
    llama_cli = settings.peer.answer(model, _QUESTION, 1, *options)
    pairs = [(cost_of(chat, _ANSWER), cost_of(llama_cli, _ANSWER)) for _ in settings.rounds(4)]
    for what, goal in (("first", _TIMES_LLAMA_CLI), ("wall", None), ("cpu", None)):
        ours, theirs = ([_field(pair[side], what) for pair in pairs] for side in (0, 1))
        words = {"first": "time to the answer", "wall": "wall time", "cpu": "CPU time"}[what]
        yield ratio(f"new process, one answer: {words}", ours, theirs, "s", goal, "llama-cli")


def _field(cost: Cost, name: str) -> float:
    value: float = getattr(cost, name)
    return value
