"""No unit test starts a process or loads libllama: whatever does is stopped by an audit hook, and the test fails."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "pty.spawn"}
_forbidden: list[str] | None = None  # what was tried, while a unit test runs


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


sys.addaudithook(_watch)  # for good, as all of them are


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Watch a unit test and the fixtures that are made for it, those of its session too."""
    global _forbidden
    _forbidden = [] if FOLDER in item.path.parents else None  # pytest calls this for tests of other folders too
    try:
        return (yield)
    finally:
        _forbidden = None


@pytest.fixture(autouse=True)
def _no_process() -> Iterator[None]:
    """What was tried fails the test even if its exception was caught."""
    yield
    assert not _forbidden, f"not in a unit test: {_forbidden}"
