"""The types of the values in the Hub's replies, which come from a network and from whoever owns a repository.

Objects of huggingface_hub come in, which takes over any JSON value; values of the right type go out. What a download
needs must be right, or it is an error; a value that is only shown is left out if it is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any

from huggingface_hub.hf_api import ModelInfo, RepoFile

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.http_errors import endpoint_hint, hub_host, not_a_hub_error
from qwenctl.hub.repository.listing import RemoteFile

_LARGEST = 1 << 63  # a larger number is no size of anything
# What huggingface_hub raises where a reply has another shape than it expects.
_SHAPE_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@contextmanager
def check_reply(repository: str) -> Iterator[None]:
    """Translate the errors of reading a reply about `repository`. Raises QwenctlError."""
    try:
        yield
    except JSONDecodeError as error:
        raise not_a_hub_error() from error
    except _SHAPE_ERRORS as error:
        raise QwenctlError(
            f"the reply of {hub_host()} about {repository} cannot be read ({type(error).__name__})",
            endpoint_hint(),
            ExitCode.BAD_DATA,
        ) from error


def parse_file(entry: RepoFile) -> RemoteFile:
    """A file of the tree. Raises ValueError for a value that is not what a download needs."""
    sha256 = entry.lfs.sha256 if entry.lfs else ""
    path: object = entry.path  # huggingface_hub says that it is a text, and does not look
    if not isinstance(path, str) or not _is_number(entry.size):
        raise ValueError("path or size")
    # The hashes become names of files here.
    if not _is_hash(entry.blob_id, 40) or (entry.lfs and not _is_hash(sha256, 64)):
        raise ValueError("hash")
    return RemoteFile(path, entry.size, entry.blob_id, sha256)


def describe_model(info: ModelInfo) -> dict[str, Any]:
    """The fields of a `Listing` that are only shown or estimated with; a wrong value becomes "" or 0."""
    gguf = info.gguf if isinstance(info.gguf, dict) else {}
    weights = _number(gguf.get("total")) or _number(getattr(info.safetensors, "total", 0))
    return {
        "license": _text(getattr(info.card_data, "license", "")),
        "architecture": _text(gguf.get("architecture")),
        "parameters": weights,
        "context_length": _number(gguf.get("context_length")),
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _number(value: object) -> int:
    return value if isinstance(value, int) and _is_number(value) else 0


def _text(value: object) -> str:
    """A text, or several joined: a card may have more than one license."""
    values = value if isinstance(value, list) else [value]
    return ", ".join(one for one in values if isinstance(one, str))


def _is_hash(value: object, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None
