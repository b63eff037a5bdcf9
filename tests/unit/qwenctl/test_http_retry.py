"""Pauses between HTTP attempts: backoff up to a limit, and Retry-After as a number or a date."""

from __future__ import annotations

import time
from email.utils import formatdate

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.http_retry import backoff_seconds, retry_after_seconds


@given(st.integers(0, 10_000))
def test_backoff_doubles_up_to_limit(attempt: int) -> None:
    middle = min(20.0, 0.2 * 2.0 ** min(attempt, 20))
    assert 0.8 * middle <= backoff_seconds(attempt) <= 1.2 * middle


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("2", 2), (" 0.5 ", 0.5), ("400", 400), ("-5", None), ("inf", None), ("nan", None), ("soon", None),
     ("", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("Thu, 99 Jan 1970 00:00:00 GMT", None)],
)  # fmt: skip
def test_retry_after_header_is_parsed(text: str, seconds: float | None) -> None:
    assert retry_after_seconds(httpx2.Headers({"retry-after": text})) == seconds


def test_retry_after_date_becomes_seconds_from_now() -> None:
    found = retry_after_seconds({"Retry-After": formatdate(time.time() + 90, usegmt=True)})
    assert found is not None
    assert 60 < found <= 90


def test_missing_retry_after_gives_none() -> None:
    assert retry_after_seconds({}) is None


@given(st.text())
def test_random_retry_after_text_gives_none_or_nonnegative_seconds(text: str) -> None:
    found = retry_after_seconds({"Retry-After": text})
    assert found is None or found >= 0
