"""The ways in which a conversion can fail, each with a sentence and a hint for the person who asked for it.

One class a kind, so that a program can tell them apart; none knows of exit codes or of a terminal.
"""

from __future__ import annotations


class QuantizeError(Exception):
    """Base of all. `message` is one line; `hint` says what to do, as a command where there is one."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class MissingInput(QuantizeError):
    """A file or folder that should be read is not there."""


class BadCheckpoint(QuantizeError):
    """The folder is not a Qwen3.5 checkpoint, or a damaged one."""


class BadGGUF(QuantizeError):
    """The file is not a GGUF file, or a damaged or hostile one."""


class BadOption(QuantizeError):
    """A type, pattern or size that does not exist or does not fit the checkpoint."""


class NeedsImatrix(QuantizeError):
    """The chosen types need an importance matrix, and none or an incomplete one was given."""


class NoSpace(QuantizeError):
    """The disk is too small for the output, or became full."""


class CannotWrite(QuantizeError):
    """The output cannot be created where it was asked for."""


class Interrupted(QuantizeError):
    """Stopped by the caller; finished tensors are kept for the next run."""


class OutputLocked(QuantizeError):
    """Another process is writing the same output."""
