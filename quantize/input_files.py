"""The source files of a conversion: all local from the start, or arriving while it runs.

`convert` processes tensors in the order in which their files arrive: it waits for the files of the next tensor, reads
them, and releases the files that no remaining tensor needs. `InputFiles` is the interface for that;
`open_local_files` implements it for files that are already on disk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from quantize.errors import BadCheckpoint, MissingInput
from quantize.file_system import file_version
from quantize.plan import ConversionPlan


class InputFiles(Protocol):
    """The source files of a conversion, by path."""

    @property
    def files(self) -> Mapping[Path, int]:
        """An open file descriptor for each file that is available."""

    def start(self, needed: Collection[Path]) -> None:
        """Called once before the first `wait`: the conversion will read these files and no others."""

    def position(self, path: Path) -> int:
        """The position of a file in the order of arrival; tensors are sorted by it."""

    def wait(self, paths: Collection[Path], stop: threading.Event) -> None:
        """Block until all these files are available or `stop` is set. Raises the error that prevents it."""

    def release(self, path: Path) -> None:
        """Called when no remaining tensor needs this file: everything made from it is on disk."""


class LocalFiles:
    """Local files, all open from the start. See `open_local_files`."""

    def __init__(self, files: Mapping[Path, int]) -> None:
        self.files = files

    def start(self, needed: Collection[Path]) -> None:
        """Do nothing: the files are open already."""

    def position(self, path: Path) -> int:
        """Return 0: all files are available, so tensors stay in file order."""
        return 0

    def wait(self, paths: Collection[Path], stop: threading.Event) -> None:
        """Return at once: the files are available."""

    def release(self, path: Path) -> None:
        """Do nothing: local files are closed together at the end."""


@contextmanager
def open_local_files(plan: ConversionPlan) -> Iterator[LocalFiles]:
    """Open the source files of `plan` until the block ends. Raises MissingInput, and as `check_unchanged`."""
    with ExitStack() as stack:
        files: dict[Path, int] = {}
        for path in sorted(plan.source_files()):
            try:
                files[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise MissingInput(f"cannot read {path}: {error.strerror}") from error
            stack.callback(os.close, files[path])
        check_unchanged(plan, files)
        yield LocalFiles(files)


def check_unchanged(plan: ConversionPlan, files: Mapping[Path, int]) -> None:
    """Raise BadCheckpoint if one of the open local `files` has changed since `plan` was made: it may mix two models."""
    for path, descriptor in files.items():
        if file_version(os.fstat(descriptor)) != plan.versions[path]:
            raise BadCheckpoint(f"{path} was changed while it was read", "run the same command again once it is whole")
