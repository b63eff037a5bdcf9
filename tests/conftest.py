"""What many tests share: the bundled toy checkpoint and a model made of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis.internal.conjecture import providers

from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan
from qwenctl.protocol.load import LoadParams
from tests.support.loaded_model import loaded
from tests.support.own_process import Late, pytest_pyfunc_call, pytest_runtest_teardown
from tests.support.paths import TESTS, TOY

__all__ = ["pytest_pyfunc_call", "pytest_runtest_teardown"]  # hooks

# The same examples on each run; no time limit for one of them, for the machine may be shared.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")
# Hypothesis also draws literals of the loaded modules of ours; which are loaded depends on the tests that ran before.
providers._get_local_constants = providers.Constants

# A shell has its background jobs ignore Ctrl-C, and the programs that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # so does nohup with a closed terminal
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


FOLDERS = ("unit", "engine", "cli", "subprocess", "golden", "faults", "structure")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the folders that it lies in: `-m engine`, `-m "cli and not subprocess"`."""
    for item in items:
        for folder in item.path.relative_to(TESTS).parts[:-1]:
            if folder in FOLDERS:
                item.add_marker(folder)


@pytest.fixture(scope="session", autouse=True)
def _no_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the person who runs the tests has set for qwenctl, and has made with it, does not matter."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        environment.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        # The tests of several workers share the processors: threads that wait for each other sleep at once.
        environment.setenv("OMP_WAIT_POLICY", "passive")
        for name in [name for name in os.environ if name.startswith("QWENCTL_")]:
            environment.delenv(name)
        yield


@pytest.fixture(scope="session")
def toy() -> Path:
    """The folder of the toy checkpoint."""
    return TOY


@pytest.fixture(scope="session")
def toy_gguf(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy checkpoint as a Q8_0 GGUF file."""
    path = tmp_path_factory.mktemp("models") / "toy-Q8_0.gguf"
    convert(make_plan(toy, path, QuantizeOptions("Q8_0", vision=False)), threads=2)
    return path


@pytest.fixture(scope="session")
def seeing_gguf(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy as a Q8_0 GGUF file with the mmproj file of its vision tower beside it."""
    path = tmp_path_factory.mktemp("seeing") / "toy-Q8_0.gguf"
    convert(make_plan(toy, path, QuantizeOptions("Q8_0")), threads=2)
    return path


@pytest.fixture(scope="session")
def toy_model(toy_gguf: Path) -> Any:
    """The toy loaded by the engine's own code, for tests that are marked `own_process`: a Model."""
    return Late(lambda: loaded(toy_gguf, LoadParams(threads=1)))
