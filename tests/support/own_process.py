"""Runs tests of engine code in separate processes, so that libllama is never loaded into pytest's own.

Such a test is marked `own_process` and runs in a fork of pytest's process, so a crash of libllama is one failed test.
Imports that load libllama are `late`: done at the first use, which is allowed only in a fork. conftest uses the hooks
below.

Fixtures are set up and torn down in pytest's own process. A fixture that loads a model returns a `Late`, and each fork
evaluates it for itself. Changes and child processes of a test end with its process.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import pickle
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import IO, Any, NoReturn

import pytest

from qwenctl.machine.llama_process import llama_environment

_LIBLLAMA = "llama_cpp.llama_cpp"
# What code that runs in the engine imports besides libllama: once here, instead of in each fork.
_EARLY = (
    "diskcache importlib.metadata jinja2.sandbox llguidance multiprocessing numpy numpy.typing psutil safetensors uuid"
    " quantize.ggml.types qwenctl.machine qwenctl.machine.llama_process qwenctl.models.context_memory"
    " qwenctl.models.gguf_check qwenctl.protocol.batch qwenctl.protocol.codec qwenctl.protocol.placement"
).split()
_OUTCOMES: dict[str, Callable[[str], object]] = {
    "skipped": pytest.skip,
    "xfailed": pytest.xfail,
    "failed": lambda text: pytest.fail(text, pytrace=False),
}
_forked = False


def late(place: str) -> Any:
    """The object named by `place` ("module" or "module:name"), imported at its first use."""
    module, _, name = place.partition(":")
    return Late(lambda: getattr(importlib.import_module(module), name) if name else importlib.import_module(module))


class Late:
    """A value that is made at its first use: a call, or an access to an attribute or item.

    It has no special attributes, because Python and pytest look at all names of a module. It is not a type: a class
    that is subclassed, or passed to isinstance() or pytest.raises(), must be made with `real` or imported where it is
    used.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def value(self) -> Any:
        """The value, made once."""
        assert _forked, "this is native, or loads libllama: a test that uses it is marked own_process"
        if "_made" not in self.__dict__:
            self._made = self._make()
        return self._made

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.value()(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.value(), name)

    def __getitem__(self, key: Any) -> Any:
        return self.value()[key]


def real(value: Any) -> Any:
    """The value of a `Late`, or `value` itself, for code that needs its type."""
    return value.value() if isinstance(value, Late) else value


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test marked `own_process` in a fork; the failure, skip or crash of the fork becomes the test's outcome."""
    if pyfuncitem.get_closest_marker("own_process") is None:
        return None
    assert _LIBLLAMA not in sys.modules, "libllama is in pytest's own process"
    outcome, text = _in_fork(lambda: _outcome(pyfuncitem))
    if outcome in _OUTCOMES:
        _OUTCOMES[outcome](text)
    return True


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Check that no test has loaded libllama into pytest's own process, where its crash would end all tests."""
    assert _LIBLLAMA not in sys.modules, "libllama is in pytest's own process: the first test that says so loaded it"


def _outcome(item: pytest.Function) -> tuple[str, str]:
    """Run the test in this process. Returns its outcome in a word, and the report that pytest would show."""
    names = item._fixtureinfo.argnames
    try:
        item.obj(**{name: real(item.funcargs[name]) for name in names})
    except pytest.skip.Exception as skipped:
        return "skipped", str(skipped)
    except pytest.xfail.Exception as expected:
        return "xfailed", str(expected)
    except BaseException:  # noqa: BLE001 - any exception is a failure of the test
        return "failed", str(item.repr_failure(pytest.ExceptionInfo.from_current()))
    return "passed", ""


def _in_fork(call: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """The result of `call` in a fork of this process."""
    for module in _EARLY:
        importlib.import_module(module)
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as crash, open(reader, "rb") as answer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pytest's other threads are idle and hold no lock
            child = os.fork()
        if not child:
            _answer(call, writer, crash)
        os.close(writer)
        try:
            result = answer.read()
        except BaseException:  # Ctrl-C, or the test has timed out
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            crash.seek(0)
            where = crash.read().decode(errors="replace")
            return "failed", f"its process ended by {signal.Signals(os.WTERMSIG(status)).name}\n{where}".strip()
    if not result:
        return "failed", f"its process ended with exit code {os.waitstatus_to_exitcode(status)}"
    outcome, text = pickle.loads(result)  # noqa: S301 - from a fork of this process
    return outcome, text


def _answer(call: Callable[[], tuple[str, str]], writer: int, crash: IO[bytes]) -> NoReturn:
    """Run `call` in this process, which is a fork, write its result, and exit."""
    global _forked
    _forked = True
    gc.freeze()  # a collection would visit, and so copy, all that pytest has in memory
    try:
        faulthandler.enable(crash)
        os.environ.update(llama_environment())  # as in an engine; OpenMP reads it when it is loaded
        result = pickle.dumps(call())
        sys.stdout.flush()
        sys.stderr.flush()
        with open(writer, "wb") as stream:
            stream.write(result)
    finally:
        os._exit(0)
