"""The errors a conversion can raise, each with a message and a hint for the user.

There is one class per kind of failure, so that callers can tell them apart. Exit codes and terminal output are the
caller's business.
"""

from __future__ import annotations


class QuantizeError(Exception):
    """Base class. `message` is one line; `hint` tells the user what to do, as a command where possible."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class MissingInput(QuantizeError):
    """A required input file or folder does not exist."""


class BadCheckpoint(QuantizeError):
    """The folder is not a Qwen3.5 checkpoint, or the checkpoint is damaged."""


class BadGGUF(QuantizeError):
    """The file is not a GGUF file, or it is damaged or malicious."""


class BadOption(QuantizeError):
    """An option names a type, pattern or size that does not exist or does not fit the checkpoint."""


class NeedsImatrix(QuantizeError):
    """The chosen types need an importance matrix, but it is missing or incomplete."""


class NoSpace(QuantizeError):
    """The disk is too small for the output, or it filled up during the conversion."""


class CannotWrite(QuantizeError):
    """The output cannot be created at the requested path."""


class Interrupted(QuantizeError):
    """The caller stopped the conversion; finished tensors are saved for the next run."""


class OutputLocked(QuantizeError):
    """Another process is writing the same output."""
