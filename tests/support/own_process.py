"""Tests of what runs in the engine's process: each in a process of its own, so that libllama never is in pytest's.

Such a test is marked `own_process` and runs in a fork of pytest's process, so that a crash of libllama is one failed
test. What loads libllama is `late` in its module: imported, or made, when it is first used, which only a fork may do.
The hooks below are those of conftest too.

Fixtures are set up, and taken down, in pytest's own process. One that loads a model gives a `Late`, and each fork makes
it for itself. What a test changes or starts ends with its process.
"""

from __future__ import annotations

import faulthandler
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
_OUTCOMES: dict[str, Callable[[str], object]] = {
    "skipped": pytest.skip,
    "xfailed": pytest.xfail,
    "failed": lambda text: pytest.fail(text, pytrace=False),
}
_forked = False


def late(place: str) -> Any:
    """What `place` ("module" or "module:name") names, imported when it is first used."""
    module, _, name = place.partition(":")
    return Late(lambda: getattr(importlib.import_module(module), name) if name else importlib.import_module(module))


class Late:
    """A value that is made when it is first used: called, or asked for an attribute or an item.

    To Python and pytest, which look at all names of a module, it has no special attributes. It is no type: a class that
    is subclassed, or that isinstance() or pytest.raises() is given, is `real` or imported where it is used.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def value(self) -> Any:
        """The value itself; the same each time."""
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
    """The value itself, where something looks at its type."""
    return value.value() if isinstance(value, Late) else value


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Call a test that is marked `own_process` in a fork; its failure, skip or crash is that of the test."""
    if pyfuncitem.get_closest_marker("own_process") is None:
        return None
    assert _LIBLLAMA not in sys.modules, "libllama is in pytest's own process"
    outcome, text = _in_fork(lambda: _outcome(pyfuncitem))
    if outcome in _OUTCOMES:
        _OUTCOMES[outcome](text)
    return True


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """No test has loaded libllama into pytest's own process, where a crash of it would end all tests."""
    assert _LIBLLAMA not in sys.modules, "libllama is in pytest's own process: the first test that says so loaded it"


def _outcome(item: pytest.Function) -> tuple[str, str]:
    """Call the test here; how it ended, in a word and as pytest would show it."""
    names = item._fixtureinfo.argnames
    try:
        item.obj(**{name: real(item.funcargs[name]) for name in names})
    except pytest.skip.Exception as skipped:
        return "skipped", str(skipped)
    except pytest.xfail.Exception as expected:
        return "xfailed", str(expected)
    except BaseException:  # noqa: BLE001 - whatever it is, it is the test's failure
        return "failed", str(item.repr_failure(pytest.ExceptionInfo.from_current()))
    return "passed", ""


def _in_fork(call: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """What `call` gives in a fork of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as crash, open(reader, "rb") as answer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pytest's other threads wait, and hold no lock
            child = os.fork()
        if not child:
            _answer(call, writer, crash)
        os.close(writer)
        try:
            told = answer.read()
        except BaseException:  # Ctrl-C, or the time of the test is over
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            crash.seek(0)
            where = crash.read().decode(errors="replace")
            return "failed", f"its process ended by {signal.Signals(os.WTERMSIG(status)).name}\n{where}".strip()
    if not told:
        return "failed", f"its process ended with exit code {os.waitstatus_to_exitcode(status)}"
    outcome, text = pickle.loads(told)  # noqa: S301 - from a fork of this process
    return outcome, text


def _answer(call: Callable[[], tuple[str, str]], writer: int, crash: IO[bytes]) -> NoReturn:
    """Call it in this process, which is a fork; tell what it gives, and end."""
    global _forked
    _forked = True
    try:
        faulthandler.enable(crash)
        os.environ.update(llama_environment())  # as an engine has it; OpenMP reads it when it is loaded
        told = pickle.dumps(call())
        sys.stdout.flush()
        sys.stderr.flush()
        with open(writer, "wb") as stream:
            stream.write(told)
    finally:
        os._exit(0)
