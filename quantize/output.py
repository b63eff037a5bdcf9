"""The output while it is being written: temporary files, and their final names.

Each file is written under a temporary name, `NAME.part` for the first, and gets its own when all of them are whole and
on the disk. Beside them lies the journal, from which a run that was killed is resumed; the journal of another plan is
not believed.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import BadOption, CannotWrite, NoSpace, QuantizeError
from quantize.formatting import format_bytes
from quantize.journal import Journal, JournalState, open_journal
from quantize.layout import FilePlan
from quantize.plan import ConversionPlan


@dataclass(frozen=True)
class PartialOutput:
    """Open files of a conversion. `finished` are (file number, tensor number) of an earlier run."""

    plan: ConversionPlan
    files: tuple[int, ...]
    journal: Journal
    finished: frozenset[tuple[int, int]]

    def write(self, file: int, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset` of a file. Raises NoSpace."""
        with disk_errors(self.plan.files[file].path):
            while len(data):
                written = os.pwrite(self.files[file], data, offset)
                data, offset = data[written:], offset + written

    def commit(self, tensors: Iterable[tuple[int, int]]) -> None:
        """Record tensors as finished, after their bytes have reached the disk."""
        pairs = list(tensors)
        if pairs:
            with disk_errors(self.plan.files[0].path):
                self._sync()
                self.journal.record(pairs)

    def finish(self) -> None:
        """Give all files their final names."""
        with disk_errors(self.plan.files[0].path):
            self._sync()
            self.journal.record_whole()
            _rename(self.plan)
            self.journal.remove()

    def describe_saved(self) -> str:
        """What a run that is stopped now leaves behind."""
        kept = self.journal.read().finished
        if not kept:
            return "nothing was finished yet"
        n_bytes = sum(self.plan.files[file].tensors[number].n_bytes for file, number in kept)
        return f"{format_bytes(n_bytes)} of {format_bytes(self.plan.n_bytes)} are saved in {_parts(self.plan)[0][1]}"

    def _sync(self) -> None:
        for file in self.files:
            os.fsync(file)


@dataclass(frozen=True)
class DiskSpace:
    """Bytes that the output still needs in `folder`, and that are free there."""

    folder: Path
    needed: int
    free: int


def required_disk_space(plan: ConversionPlan) -> DiskSpace:
    """The room for the output of `plan`, less what an unfinished output takes already."""
    folder = plan.files[0].path.parent.resolve()
    needed = sum(max(0, file.n_bytes - _allocated(part)) for file, part in _parts(plan))
    return DiskSpace(folder, needed, shutil.disk_usage(folder).free)


@contextmanager
def open_output(plan: ConversionPlan, *, overwrite: bool) -> Iterator[PartialOutput]:
    """The output of `plan`, new or resumed; closed but kept when the block is left by an exception.

    Raises BadOption if an output is an input, CannotWrite if it exists or cannot be created, NoSpace, Busy.
    """
    check_paths(plan)
    first = plan.files[0].path
    with ExitStack() as stack:
        with disk_errors(first):
            journal = stack.enter_context(open_journal(first.with_name(f"{first.name}.journal"), first))
        try:
            state = journal.read()
            finished = _finished(plan, state)
            if finished and state.whole:  # killed between the renames: the bytes are all there
                yield PartialOutput(plan, (), journal, finished)
                return
            _check_existing(plan, state, overwrite=overwrite)
            _check_room(plan)
            files = _open_parts(plan, journal, stack, resumed=bool(finished))
            yield PartialOutput(plan, files, journal, finished)
        except BaseException:
            if not journal.read().finished:
                _remove(plan, journal)
            raise


def check_paths(plan: ConversionPlan) -> None:
    """Refuse an output that is an input or that cannot be a file. Raises BadOption or CannotWrite."""
    beside = (path for path in plan.checkpoint.folder.iterdir() if path.suffix != ".gguf")
    inputs = {*plan.source_files(), *(path for path in beside if path.is_file())}
    for file in plan.files:
        if file.path.exists() and any(os.path.samefile(file.path, path) for path in inputs):
            raise BadOption(f"output would overwrite its own input {file.path}", "choose another -o")
        if file.path.exists() and not file.path.is_file():
            raise CannotWrite(f"{file.path} is not a regular file", "give -o the name of a file")
        if not file.path.parent.is_dir():
            raise CannotWrite(f"no such folder: {file.path.parent}", f"mkdir -p {shlex.quote(str(file.path.parent))}")


def _check_existing(plan: ConversionPlan, state: JournalState, *, overwrite: bool) -> None:
    """Refuse to replace an output, or to throw away the finished tensors of another plan."""
    _, part = _parts(plan)[0]
    if state.finished and state.fingerprint != plan.fingerprint and part.exists() and not overwrite:
        raise CannotWrite(
            f"{part} is an unfinished output of other options, another input or another version",
            "--overwrite starts over",
        )
    for file in plan.files:
        if file.path.exists() and not overwrite and not _is_remade(plan, file):
            raise CannotWrite(f"{file.path} already exists", "--overwrite replaces it once the new file is complete")


def _check_room(plan: ConversionPlan) -> None:
    """Refuse an output for which the disk has no room."""
    room = required_disk_space(plan)
    if room.needed > room.free:
        raise NoSpace(
            f"needs {format_bytes(room.needed)}, {room.folder} has {format_bytes(room.free)} free "
            f"({format_bytes(room.needed - room.free)} short)",
            "-o on another disk, or a smaller --type",
        )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into errors with a hint."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"disk full while writing {path}", "free up space and run the same command again") from error
        if error.errno == errno.EFBIG:
            raise NoSpace(
                f"{path} would be larger than the file system or `ulimit -f` allows",
                "--split-max-size 2G splits it into several files",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
            raise CannotWrite(f"cannot write to {path.parent}: {reason}", "-o in another folder") from error
        raise QuantizeError(f"cannot write {path}: {reason}") from error


def _parts(plan: ConversionPlan) -> list[tuple[FilePlan, Path]]:
    """Each file with its temporary name: that of the first file, so that no other output has the same.

    The mmproj file, in contrast, is the same for all outputs of a model.
    """
    first = plan.files[0].path
    names = [f"{first.name}.part", *(f"{first.name}.{number}.part" for number in range(1, len(plan.files)))]
    return [(file, first.with_name(name)) for file, name in zip(plan.files, names, strict=True)]


def _is_remade(plan: ConversionPlan, file: FilePlan) -> bool:
    """Whether an existing mmproj is the same but for weights: another text type of the same model was made before."""
    if file not in plan.vision_files or file.path.stat().st_size != file.n_bytes:
        return False
    with file.path.open("rb") as existing:
        return existing.read(len(file.header)) == file.header


def _allocated(path: Path) -> int:
    """Bytes that a sparse file already takes."""
    return path.stat().st_blocks * 512 if path.exists() else 0


def _finished(plan: ConversionPlan, state: JournalState) -> frozenset[tuple[int, int]]:
    """The tensors that need not be made again."""
    if state.fingerprint != plan.fingerprint:
        return frozenset()
    if state.whole:
        there = all(_has_size(part, file) or _has_size(file.path, file) for file, part in _parts(plan))
        pairs = ((number, tensor) for number, file in enumerate(plan.files) for tensor in range(len(file.tensors)))
        return frozenset(pairs if there else ())
    return state.finished if all(_has_size(part, file) for file, part in _parts(plan)) else frozenset()


def _has_size(path: Path, file: FilePlan) -> bool:
    return path.is_file() and path.stat().st_size == file.n_bytes


def _open_parts(plan: ConversionPlan, journal: Journal, stack: ExitStack, *, resumed: bool) -> tuple[int, ...]:
    """A descriptor for each temporary file, which has its header and its full length; `stack` closes them."""
    files = []
    with disk_errors(plan.files[0].path):
        if not resumed:
            journal.start(plan.fingerprint)
        journal.append([f"pid {os.getpid()}"])
    for file, part in _parts(plan):
        with disk_errors(file.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | (0 if resumed else os.O_TRUNC)
            descriptor = os.open(part, flags, 0o644)
            stack.callback(os.close, descriptor)
            os.ftruncate(descriptor, file.n_bytes)
            os.pwrite(descriptor, file.header, 0)
            files.append(descriptor)
    return tuple(files)


def _rename(plan: ConversionPlan) -> None:
    for file, part in _parts(plan):
        if part.exists():
            os.replace(part, file.path)
    folder = os.open(plan.files[0].path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _remove(plan: ConversionPlan, journal: Journal) -> None:
    """Leave nothing behind where nothing was finished."""
    for _, part in _parts(plan):
        part.unlink(missing_ok=True)
    journal.remove()
