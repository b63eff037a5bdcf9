"""Tests of what runs in the engine's process: each in a process of its own, so that libllama never is in pytest's.

A module of such tests has `pytestmark = pytest.mark.own_process`. Its imports of modules that load libllama are `late`:
they are done when they are first used, which is after the fork. A crash of libllama is then one failed test.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest

_LOADED_BY_LIBLLAMA = "llama_cpp.llama_cpp"


def late(place: str) -> Any:
    """What `place` ("module:name") names, imported when it is first used."""
    module, _, name = place.partition(":")
    return Late(lambda: getattr(importlib.import_module(module), name))


class Late:
    """A value that is made when it is first used: called, or asked for an attribute or an item."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.__dict__["_make"] = make

    def _value(self) -> Any:
        made = self.__dict__.get("_made")
        if made is None:
            made = self.__dict__["_made"] = self.__dict__["_make"]()
        return made

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._value()(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._value()[key]


def real(value: Any) -> Any:
    """The value itself, where something looks at its type."""
    return value._value() if isinstance(value, Late) else value


def call_in_own_process(function: Callable[..., object], arguments: dict[str, Any]) -> None:
    """Call a test's function in a fork of this process; its failure, skip or crash is that of the test."""
    assert _LOADED_BY_LIBLLAMA not in sys.modules, "libllama is in pytest's own process"
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of pytest wait, and hold nothing we need
        child = os.fork()
    if not child:
        _answer(function, arguments, writer)
    os.close(writer)
    try:
        with open(reader, "rb") as stream:
            told = stream.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        pytest.fail(f"its process ended by {signal.Signals(os.WTERMSIG(status)).name}", pytrace=False)
    kind, text = pickle.loads(told)  # noqa: S301 - from a fork of this process
    if kind == "skipped":
        pytest.skip(text)
    if kind == "failed":
        pytest.fail(text, pytrace=False)


def _answer(function: Callable[..., object], arguments: dict[str, Any], writer: int) -> None:
    """Call it, tell how it ended, and end this process."""
    told = ("passed", "")
    try:
        function(**arguments)
    except pytest.skip.Exception as skipped:
        told = ("skipped", str(skipped))
    except BaseException:  # noqa: BLE001 - whatever it is, it is the test's failure
        told = ("failed", traceback.format_exc())
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(writer, pickle.dumps(told))
    finally:
        os._exit(0)
