"""What the child processes of libllama have in common: their environment, and what ggml says when it aborts.

Texts come in and go out; nothing is started here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

# What ggml prints before it aborts, without the folder in which it was compiled.
_ASSERTION = re.compile(r"([\w-]+\.\w+:\d+: (?:GGML_ASSERT|GGML_ABORT|fatal error).*)")
_BUILD_FOLDER = re.compile(r"^/\S*/(?=[\w-]+\.\w+:\d)")


def llama_environment() -> Mapping[str, str]:
    """This process's own variables, and those that libllama should find unless the user has set them.

    To be given to a process before it starts: OpenMP reads its variables when it is loaded.
    """
    return {**_defaults(), **os.environ, "GGML_NO_BACKTRACE": "1"}  # a debugger that attaches can hang for minutes


def assertion(log: str) -> str:
    """The last assertion of ggml that failed, by a process's log; empty if there is none."""
    return next(reversed(_ASSERTION.findall(log)), "")


def last_line(log: str) -> str:
    """The last line of a process's log, without the folder in which ggml was compiled."""
    lines = log.strip().splitlines()
    return _BUILD_FOLDER.sub("", lines[-1].strip()) if lines else ""


def _defaults() -> dict[str, str]:
    return {} if sys.platform == "darwin" else {"OMP_WAIT_POLICY": "passive"}
