"""What the Hub, or the way to it, answered instead of what was asked, in the program's own words.

Exceptions of huggingface_hub and its HTTP client come in. What may be different in a moment becomes `RetryableError`,
for which `retry` knows what to do; everything else becomes a QwenctlError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # public, not marked so

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.http_retry import retry_after_seconds
from qwenctl.hub.repository.catalog import nearest_repository

_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)


class RetryableError(Exception):
    """Something that may be different in a moment; `wait` is how long the server asks to wait, in seconds.

    `status` is that of the answer, 0 without one.
    """

    def __init__(self, reason: str, wait: float | None = None, status: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.status = reason, wait, status


def host() -> str:
    """The Hub's address, as HF_ENDPOINT has it."""
    return constants.ENDPOINT.partition("://")[2] or constants.ENDPOINT


@contextmanager
def translate_http_errors(repository: str, revision: str = "main") -> Iterator[None]:
    """Inside, failures of a request about `repository` are a RetryableError or a QwenctlError."""
    try:
        yield
    except httpx2.TransportError as error:
        raise RetryableError(_reason(error)) from error
    except httpx2.TooManyRedirects as error:
        raise QwenctlError(f"{host()} redirects in a loop", _endpoint_hint(), ExitCode.NETWORK) from error
    except OfflineModeIsEnabled as error:
        raise QwenctlError(
            "HF_HUB_OFFLINE is set, and this command needs the Hub", "unset HF_HUB_OFFLINE", ExitCode.NETWORK
        ) from error
    except HfHubHTTPError as error:
        raise _refused(error, repository, revision) from error
    except httpx2.HTTPError as error:
        raise RetryableError(str(error) or type(error).__name__) from error


def _reason(error: httpx2.TransportError) -> str:
    """Why nothing came, in a word or two."""
    text = str(error)
    if isinstance(error, httpx2.TimeoutException):
        return "no response in time"
    for pattern, reason in (
        (r"name or service|name resolution|nodename|getaddrinfo", "DNS"),
        (r"refused", "connection refused"),
        (r"certificate|ssl|tls", f"TLS: {text[:80]}"),
        (r"reset|peer closed|disconnected|broken pipe", "connection lost"),
        (r"unreachable", "network unreachable"),
    ):
        if re.search(pattern, text, re.IGNORECASE):
            return reason
    return text[:80] or type(error).__name__


def _refused(error: HfHubHTTPError, repository: str, revision: str) -> Exception:
    """What an answer with an error status means."""
    status = error.response.status_code
    if status in _MAY_PASS:
        return RetryableError(f"{status} {error.response.reason_phrase}", _asked_to_wait(error.response), status)
    if isinstance(error, GatedRepoError):
        return gated_error(repository)
    if isinstance(error, RevisionNotFoundError):
        return QwenctlError(f"no revision '{revision}' in {repository}", f"qwenctl ls {repository}", ExitCode.NO_INPUT)
    if isinstance(error, RemoteEntryNotFoundError):
        return QwenctlError(f"a file of {repository} no longer exists on {host()}", _endpoint_hint(), ExitCode.NO_INPUT)
    if status == 401 and "Authorization" in error.response.request.headers:
        return QwenctlError(
            f"the Hub rejected the token from {_token_source()} (401)",
            "`hf auth login`, or unset HF_TOKEN for public repos",
            ExitCode.NO_PERMISSION,
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return not_found_error(repository)
    if status == 403:
        return QwenctlError(
            f"{host()} does not allow access to {repository} (403)", "hf auth login", ExitCode.NO_PERMISSION
        )
    return QwenctlError(
        f"{host()} answered {status} {error.response.reason_phrase}", _endpoint_hint(), ExitCode.NETWORK
    )


def not_found_error(repository: str) -> QwenctlError:
    """There is no such repository, or it is hidden."""
    near = nearest_repository(repository)
    hint = f"did you mean {near}? Private repos need a token" if near else "check the name; private repos need a token"
    return QwenctlError(f"repo '{repository}' not found on {host()}", hint, ExitCode.NO_INPUT)


def gated_error(repository: str) -> QwenctlError:
    """The repository wants to know who fetches it."""
    return QwenctlError(
        f"access to '{repository}' needs approval by its owner",
        f"open https://hf.co/{repository}, accept, then run again",
        ExitCode.NO_PERMISSION,
    )


def not_a_hub_error() -> QwenctlError:
    """Something else than a Hub answers: a login page of a network, or a broken mirror."""
    if "HF_ENDPOINT" not in os.environ:
        return QwenctlError(
            f"the response from {host()} is not from a Hub (no X-Repo-Commit)",
            "log in to the network",
            ExitCode.NETWORK,
        )
    return QwenctlError(
        "the response from HF_ENDPOINT is not from a Hub (no X-Repo-Commit)",
        "log in to the network or unset HF_ENDPOINT",
        ExitCode.NETWORK,
    )


class Unreachable(QwenctlError):
    """The Hub does not answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot reach {host()} ({reason})", "check proxy/HF_ENDPOINT", ExitCode.NETWORK)


def _asked_to_wait(response: httpx2.Response) -> float | None:
    """Seconds of Retry-After, or until the rate limit is reset."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    return retry_after_seconds(response.headers)


def _token_source() -> str:
    """Where huggingface_hub found the token."""
    named = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), "")
    return named or constants.HF_TOKEN_PATH


def _endpoint_hint() -> str:
    return "unset HF_ENDPOINT" if "HF_ENDPOINT" in os.environ else "try again later"
