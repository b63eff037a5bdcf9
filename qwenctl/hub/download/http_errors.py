"""Translate HTTP failures into the program's own errors.

Exceptions of huggingface_hub and its HTTP client come in. Temporary failures become `RetryableError`, which `retry`
handles; everything else becomes a QwenctlError with a hint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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

from qwenctl.errors import ExitCode, QwenctlError, command_line
from qwenctl.http_retry import retry_after_seconds
from qwenctl.hub.repository.catalog import find_family, nearest_repository

# Timeout, too early, too many requests, and server errors that are usually temporary.
_RETRYABLE_STATUSES = (408, 425, 429, 500, 502, 503, 504)


class RetryableError(Exception):
    """A failure that may be gone on the next attempt.

    `retry_after` is the delay that the server asks for, in seconds, or None. `status` is the HTTP status, 0 without a
    response.
    """

    def __init__(self, reason: str, retry_after: float | None = None, status: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.retry_after, self.status = reason, retry_after, status


def hub_host() -> str:
    """The Hub's host name, from HF_ENDPOINT if it is set."""
    return constants.ENDPOINT.partition("://")[2] or constants.ENDPOINT


@contextmanager
def translate_http_errors(repository: str, revision: str = "main") -> Iterator[None]:
    """Translate failures of requests for `repository` inside the block to RetryableError or QwenctlError."""
    try:
        yield
    except httpx2.TransportError as error:
        raise RetryableError(_transport_reason(error)) from error
    except httpx2.TooManyRedirects as error:
        raise QwenctlError(f"{hub_host()} redirects in a loop", endpoint_hint(), ExitCode.NETWORK) from error
    except httpx2.InvalidURL as error:
        raise QwenctlError(f"{hub_host()} redirects to what is no URL", endpoint_hint(), ExitCode.NETWORK) from error
    except OfflineModeIsEnabled as error:
        raise QwenctlError(
            "HF_HUB_OFFLINE is set, and this command needs the Hub", "unset HF_HUB_OFFLINE", ExitCode.NETWORK
        ) from error
    except HfHubHTTPError as error:
        raise _translate_status_error(error, repository, revision) from error
    except httpx2.HTTPError as error:
        raise RetryableError(str(error) or type(error).__name__) from error


def _transport_reason(error: httpx2.TransportError) -> str:
    """Describe a transport failure in a word or two."""
    text = str(error)
    if isinstance(error, httpx2.TimeoutException):
        return "no response in time"
    # The HTTP client has no exception classes for these causes; only the message tells them apart.
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


def _translate_status_error(error: HfHubHTTPError, repository: str, revision: str) -> Exception:
    """Translate a response with an error status."""
    status = error.response.status_code
    if status in _RETRYABLE_STATUSES:
        return RetryableError(f"{status} {error.response.reason_phrase}", _retry_after_seconds(error.response), status)
    if isinstance(error, GatedRepoError):
        return gated_error(repository)
    if isinstance(error, RevisionNotFoundError):
        return revision_error(repository, revision)
    if isinstance(error, RemoteEntryNotFoundError):
        return QwenctlError(
            f"a file of {repository} no longer exists on {hub_host()}", endpoint_hint(), ExitCode.NO_INPUT
        )
    # With a token, 401 means that the token is bad; without one, that the repository is private or does not exist.
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
            f"{hub_host()} does not allow access to {repository} (403)", "hf auth login", ExitCode.NO_PERMISSION
        )
    return QwenctlError(
        f"{hub_host()} answered {status} {error.response.reason_phrase}", endpoint_hint(), ExitCode.NETWORK
    )


def revision_error(repository: str, revision: str) -> QwenctlError:
    """The error for a branch, tag or commit that a repository does not have."""
    return QwenctlError(f"no revision '{revision}' in {repository}", command_line("ls", repository), ExitCode.NO_INPUT)


def not_found_error(repository: str) -> QwenctlError:
    """The error for a repository that does not exist or is not visible."""
    near = nearest_repository(repository)
    hint = f"did you mean {near}? Private repos need a token" if near else "check the name; private repos need a token"
    if near and find_family(repository) is not None:
        hint = f"the same model is in {near}; private repos need a token"
    return QwenctlError(f"repo '{repository}' not found on {hub_host()}", hint, ExitCode.NO_INPUT)


def gated_error(repository: str) -> QwenctlError:
    """The error for a gated repository, to which its owner must grant access."""
    return QwenctlError(
        f"access to '{repository}' needs approval by its owner",
        f"open https://hf.co/{repository}, accept, then run again",
        ExitCode.NO_PERMISSION,
    )


def not_a_hub_error() -> QwenctlError:
    """The error for a response that is not from a Hub: a network's login page, or a broken mirror."""
    if "HF_ENDPOINT" not in os.environ:
        return QwenctlError(
            f"the response from {hub_host()} is not from a Hub (no X-Repo-Commit)",
            "log in to the network",
            ExitCode.NETWORK,
        )
    return QwenctlError(
        "the response from HF_ENDPOINT is not from a Hub (no X-Repo-Commit)",
        "log in to the network or unset HF_ENDPOINT",
        ExitCode.NETWORK,
    )


class Unreachable(QwenctlError):
    """The Hub does not respond."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot reach {hub_host()} ({reason})", "check proxy/HF_ENDPOINT", ExitCode.NETWORK)


def _retry_after_seconds(response: httpx2.Response) -> float | None:
    """Seconds from the Retry-After header or until the rate limit resets; None if the server asks for nothing."""
    with suppress(ArithmeticError, ValueError):  # numbers of thousands of digits
        limit = parse_ratelimit_headers(response.headers)
        if limit is not None and limit.remaining == 0:
            return float(limit.reset_in_seconds)
    return retry_after_seconds(response.headers)


def _token_source() -> str:
    """Where huggingface_hub found the token: an environment variable or a file."""
    variable = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), "")
    return variable or constants.HF_TOKEN_PATH


def endpoint_hint() -> str:
    """What to do about a server that does not behave as a Hub."""
    return "unset HF_ENDPOINT" if "HF_ENDPOINT" in os.environ else "try again later"
