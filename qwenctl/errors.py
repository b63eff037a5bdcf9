"""Errors that a user sees: one line, a hint and an exit code.

Every error that a user can cause or meet is a `QwenctlError`, raised where it is detected and shown in one place,
`cli.main`. Errors of the `quantize` library are translated here, so that the library does not know exit codes.
"""

from __future__ import annotations

import errno
import shlex
from enum import IntEnum
from pathlib import Path
from typing import Self

import quantize.errors
from quantize.errors import QuantizeError


class ExitCode(IntEnum):
    """Exit codes: those of sysexits.h where one fits, and 128 + signal. `meaning` is the text for the documentation."""

    meaning: str

    def __new__(cls, value: int, meaning: str = "") -> Self:
        """Create a member from its code and its meaning."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "done"
    BUG = 1, "a bug in qwenctl: run again with --debug and report it; from `qwenctl doctor`: something is wrong"
    USAGE = 2, "the command line is wrong"
    SOME_FAILED = 3, "some of several tasks failed"
    BAD_DATA = 65, "a file is not usable: not a Qwen3.5 checkpoint, not a GGUF file, damaged or incomplete"
    NO_INPUT = 66, "an input does not exist"
    NETWORK = 69, "the network or a server cannot be reached"
    ENGINE_CRASHED = 70, "the engine crashed, or llama.cpp computes wrong results on this machine"
    NO_MEMORY = 71, "not enough memory"
    CANNOT_CREATE = 73, "an output cannot be created"
    IO = 74, "reading or writing failed, or the disk is full"
    TRY_AGAIN = 75, "something is busy: try again later"
    NO_PERMISSION = 77, "no permission"
    CONFIG = 78, "a setting is wrong"
    HUNG_UP = 129, "the terminal or the connection was closed"
    INTERRUPTED = 130, "stopped by Ctrl-C"
    BROKEN_PIPE = 141, "the reader of the output has closed it"
    TERMINATED = 143, "stopped by a signal"


class QwenctlError(Exception):
    """An error with a message of one line, a hint (a command to paste, or what to change), and an exit code."""

    def __init__(self, message: str, hint: str = "", code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


def command_line(*words: str | Path) -> str:
    """The command line `qwenctl WORD...` as text to paste into a shell: for hints, and for the next step to show."""
    return f"qwenctl {quote(*words)}"


def quote(*words: str | Path) -> str:
    """Options and arguments as text to paste into a shell. A `Path` never looks like an option."""
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words
    )


_QUANTIZE_CODES: tuple[tuple[type[QuantizeError], ExitCode], ...] = (
    (quantize.errors.MissingInput, ExitCode.NO_INPUT),
    (quantize.errors.BadCheckpoint, ExitCode.BAD_DATA),
    (quantize.errors.BadGGUF, ExitCode.BAD_DATA),
    (quantize.errors.BadOption, ExitCode.USAGE),
    (quantize.errors.NeedsImatrix, ExitCode.BAD_DATA),
    (quantize.errors.NoSpace, ExitCode.IO),
    (quantize.errors.CannotWrite, ExitCode.CANNOT_CREATE),
    (quantize.errors.Interrupted, ExitCode.INTERRUPTED),
    (quantize.errors.OutputLocked, ExitCode.TRY_AGAIN),
    (QuantizeError, ExitCode.IO),
)
_ERRNO_CODES = {
    errno.ENOSPC: ExitCode.IO,
    errno.EDQUOT: ExitCode.IO,
    errno.ENOENT: ExitCode.NO_INPUT,
    errno.EACCES: ExitCode.NO_PERMISSION,
    errno.EPERM: ExitCode.NO_PERMISSION,
    errno.EROFS: ExitCode.CANNOT_CREATE,
    errno.EEXIST: ExitCode.CANNOT_CREATE,
}


def explain(error: BaseException) -> QwenctlError:
    """Turn any exception into the error to show; an unknown one is reported as a bug."""
    match error:
        case QwenctlError():
            return error
        case QuantizeError():
            return from_quantize(error)
        case OSError():
            return _from_os(error)
        case MemoryError():
            return QwenctlError("not enough memory", "", ExitCode.NO_MEMORY)
    return QwenctlError(
        f"internal error: {type(error).__name__}: {error}", "run again with --debug and report it", ExitCode.BUG
    )


def from_quantize(error: QuantizeError) -> QwenctlError:
    """Translate an error of the `quantize` library, with the exit code of its class."""
    code = next(code for error_type, code in _QUANTIZE_CODES if isinstance(error, error_type))
    return QwenctlError(error.message, error.hint, code)


def _from_os(error: OSError) -> QwenctlError:
    """Translate an error of the operating system; without a file name, writing standard output failed."""
    reason = (error.strerror or str(error)).lower()
    where = f"{error.filename}: {reason}" if error.filename else f"cannot write the output ({reason})"
    return QwenctlError(where, "", _ERRNO_CODES.get(error.errno or 0, ExitCode.IO))
