"""Unit tests may not start a process or load libllama: an audit hook stops the attempt and the test fails."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "pty.spawn"}
_forbidden: list[str] | None = None  # the attempts so far while a unit test runs, otherwise None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _forbidden is None:
        return
    if event in _STARTS:
        tried = f"{event} {arguments[:2]}"
    elif event == "ctypes.dlopen" and "libllama" in str(arguments[0]):
        tried = f"libllama: {arguments[0]}"
    else:
        return
    _forbidden.append(tried)
    raise AssertionError(f"not in a unit test: {tried}")


sys.addaudithook(_watch)  # audit hooks cannot be removed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Watch a unit test and the fixtures that it sets up, session fixtures included."""
    global _forbidden
    _forbidden = [] if FOLDER in item.path.parents else None  # pytest also calls this for tests in other folders
    try:
        return (yield)
    finally:
        _forbidden = None


@pytest.fixture(autouse=True)
def _no_process() -> Iterator[None]:
    """Fail the test for a forbidden attempt even if the test caught its exception."""
    yield
    assert not _forbidden, f"not in a unit test: {_forbidden}"
