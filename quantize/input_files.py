"""The files that a conversion reads: all of them here from the start, or arriving while it runs.

`convert` takes tensors in the order in which their files are there, waits for those of the next one, reads them, and
says which files nothing needs any more. `InputFiles` is what it needs for that; `local_sources` is the plain case.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from quantize.errors import MissingInput
from quantize.plan import ConversionPlan


class InputFiles(Protocol):
    """The files of a conversion."""

    @property
    def files(self) -> Mapping[Path, int]:
        """A descriptor for each file that is here."""

    def begin(self, needed: Collection[Path]) -> None:
        """The conversion begins; it will read these files and no others."""

    def position(self, path: Path) -> int:
        """The place of a file in the order of arrival."""

    def wait(self, paths: Collection[Path], stop: threading.Event) -> None:
        """Return when all these files are here, or `stop` is set. Raises what kept one of them from coming."""

    def release(self, path: Path) -> None:
        """Nothing needs this file any more: all that was made of it is on the disk."""


class LocalFiles:
    """Files that are all here, open. See `local_sources`."""

    def __init__(self, files: Mapping[Path, int]) -> None:
        self.files = files

    def begin(self, needed: Collection[Path]) -> None:
        """They are open."""

    def position(self, path: Path) -> int:
        """All the same."""
        return 0

    def wait(self, paths: Collection[Path], stop: threading.Event) -> None:
        """They are here."""

    def release(self, path: Path) -> None:
        """They stay."""


@contextmanager
def local_sources(plan: ConversionPlan) -> Iterator[LocalFiles]:
    """The files of `plan`, open until the block ends. Raises MissingInput."""
    with ExitStack() as stack:
        files: dict[Path, int] = {}
        for path in sorted(plan.source_files()):
            try:
                files[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise MissingInput(f"cannot read {path}: {error.strerror}") from error
            stack.callback(os.close, files[path])
        yield LocalFiles(files)
