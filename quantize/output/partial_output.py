"""The output while it is being written: temporary files, and their final names.

Each file is written under a temporary name (`NAME.part` for the first) and renamed when all of them are complete and on
disk. The journal next to them lets the next run resume after a kill; a journal of a different plan is ignored.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import BadCheckpoint, BadOption, CannotWrite, NoSpace, QuantizeError
from quantize.file_system import (
    file_sha256,
    read_attribute,
    replace_files,
    sync_folder,
    write_all,
    write_attribute,
)
from quantize.formatting import format_bytes
from quantize.layout import FilePlan
from quantize.output.journal import Journal, JournalState, open_journal, peek_journal
from quantize.plan import ConversionPlan

_MADE = "made"  # the name of the attribute with the plan's fingerprint and the hashes


@dataclass(frozen=True)
class PartialOutput:
    """The open files of a conversion. `finished` holds (file index, tensor index) from an earlier run."""

    plan: ConversionPlan
    files: tuple[int, ...]
    journal: Journal
    finished: frozenset[tuple[int, int]]

    def write(self, file: int, data: memoryview, offset: int) -> None:
        """Write all of `data` at byte `offset` of file number `file`. Raises as `translate_disk_errors`."""
        with translate_disk_errors(self.plan.files[file].path):
            write_all(self.files[file], data, offset)

    def commit(self, tensors: Iterable[tuple[int, int]]) -> None:
        """Sync the files, then record tensors as finished. Raises as `translate_disk_errors`."""
        pairs = list(tensors)
        if pairs:
            with translate_disk_errors(self.plan.files[0].path):
                self._sync()
                self.journal.record(pairs)

    @property
    def is_complete(self) -> bool:
        """Whether an earlier run wrote everything, and was stopped before its end."""
        return not self.files

    def known_hashes(self) -> tuple[str, ...]:
        """The SHA-256 of each file of a complete output, as the run recorded it that wrote it. Raises OSError."""
        recorded = self.journal.read().hashes
        return tuple(
            recorded.get(number) or file_sha256(part if part.exists() else file.path)
            for number, (file, part) in enumerate(_part_paths(self.plan))
        )

    def finish(self, hashes: tuple[str, ...] = (), on_renamed: Callable[[], None] = lambda: None) -> None:
        """Sync all files, whose SHA-256 are `hashes`, rename them, call `on_renamed` and delete the journal.

        A kill between these steps loses nothing: once the journal says "complete", the next run accepts each file under
        either name and only repeats the renames and what `on_renamed` does.
        """
        with translate_disk_errors(self.plan.files[0].path):
            self._sync()
            _record_hashes(self.plan, hashes)
            if not self.is_complete:
                self.journal.record_complete(hashes)
            _rename_parts(self.plan)
        on_renamed()
        self.journal.remove()

    def describe_saved(self) -> str:
        """Describe what a run that is stopped now leaves on disk, for an error message."""
        state = self.journal.read()
        finished = state.finished
        if state.complete:
            return "all of it is written"
        if not finished:
            return "nothing was finished yet"
        n_bytes = sum(self.plan.files[file].tensors[number].n_bytes for file, number in finished)
        return (
            f"{format_bytes(n_bytes)} of {format_bytes(self.plan.n_bytes)} are saved in {_part_paths(self.plan)[0][1]}"
        )

    def _sync(self) -> None:
        for file in self.files:
            os.fsync(file)


@dataclass(frozen=True)
class DiskSpace:
    """Bytes that the output still needs in `folder`, and bytes that are free there."""

    folder: Path
    needed: int
    free: int


def required_disk_space(plan: ConversionPlan) -> DiskSpace:
    """Compute the disk space for the output of `plan`, minus what its unfinished output occupies already."""
    folder = plan.files[0].path.parent.resolve()
    if is_written(plan):
        return DiskSpace(folder, 0, shutil.disk_usage(folder).free)
    needed = sum(max(0, file.n_bytes - _allocated_bytes(part)) for file, part in _part_paths(plan))
    return DiskSpace(folder, needed, shutil.disk_usage(folder).free)


@contextmanager
def open_output(plan: ConversionPlan, *, overwrite: bool) -> Iterator[PartialOutput]:
    """Open the output of `plan`, new or resumed. If the block raises, the files are closed and, unless empty, saved.

    Raises BadOption if an output is an input, CannotWrite if it exists or cannot be created, NoSpace, OutputLocked.
    """
    check_paths(plan)
    first = plan.files[0].path
    with ExitStack() as stack:
        with translate_disk_errors(first):
            journal = stack.enter_context(open_journal(_journal_path(plan), first))
        state = journal.read()
        _check_parts(plan, journal, state)
        try:
            finished = _finished_tensors(plan, state)
            if finished and state.complete:  # an earlier run was killed between the renames; all bytes are on disk
                yield PartialOutput(plan, (), journal, finished)
                return
            _check_existing(plan, state, overwrite=overwrite)
            _check_free_space(plan)
            files = _open_part_files(plan, journal, stack, resumed=bool(finished))
            yield PartialOutput(plan, files, journal, finished)
        except BaseException as error:
            # Nothing that a next run could use: it would meet the same bad weights again.
            if not journal.read().finished or isinstance(error, BadCheckpoint):
                _remove_parts(plan, journal)
            raise


def is_written(plan: ConversionPlan) -> bool:
    """Whether an earlier run wrote all of `plan`, and was stopped before its end; another process may be at it."""
    state = peek_journal(_journal_path(plan))
    return state.complete and bool(_finished_tensors(plan, state))


def is_made(plan: ConversionPlan, hashes: Sequence[str], on_check: Callable[[], None] = lambda: None) -> bool:
    """Whether the files of `plan` have their final names, the plan's headers and these SHA-256.

    They are read whole, after a call of `on_check`, if nothing else tells them apart. Raises OSError.
    """
    if _journal_path(plan).exists() or len(hashes) != len(plan.files):
        return False
    if not all(_has_size(file.path, file) and _has_header(file) for file in plan.files):
        return False
    on_check()
    return all(file_sha256(file.path) == one for file, one in zip(plan.files, hashes, strict=True))


def recorded_hashes(plan: ConversionPlan) -> tuple[str, ...]:
    """The SHA-256 of the files that a run of `plan` recorded with the first of them; none if there is no such record.

    The files may have changed since then.
    """
    fingerprint, *hashes = read_attribute(plan.files[0].path, _MADE).split() or [""]
    return tuple(hashes) if fingerprint == plan.fingerprint else ()


def _record_hashes(plan: ConversionPlan, hashes: Sequence[str]) -> None:
    """Record what is made before it has its name: once the journal is gone, nothing else may know it."""
    file, part = _part_paths(plan)[0]
    write_attribute(part if part.exists() else file.path, _MADE, " ".join([plan.fingerprint, *hashes]))


def check_paths(plan: ConversionPlan) -> None:
    """Check that no output is an input or an impossible path. Raises BadOption or CannotWrite."""
    # Other files of the checkpoint, such as the tokenizer, are inputs as well. An old GGUF output in the same folder is
    # not. samefile also recognizes links and other spellings of a path.
    files_in_folder = (path for path in plan.checkpoint.folder.iterdir() if path.suffix != ".gguf")
    inputs = {*plan.source_files(), *(path for path in files_in_folder if path.is_file())}
    for file in plan.files:
        if file.path.exists() and any(os.path.samefile(file.path, path) for path in inputs):
            raise BadOption(f"output would overwrite its own input {file.path}", "choose another -o")
        if file.path.exists() and not file.path.is_file():
            raise CannotWrite(f"{file.path} is not a regular file", "give -o the name of a file")
        if not file.path.parent.is_dir():
            raise CannotWrite(f"no such folder: {file.path.parent}", f"mkdir -p {shlex.quote(str(file.path.parent))}")


def _check_parts(plan: ConversionPlan, journal: Journal, state: JournalState) -> None:
    """Raise CannotWrite if a temporary name is taken by a file that no journal mentions, or by a symbolic link."""
    for file, part in _part_paths(plan):
        is_own = bool(state.fingerprint.strip("\0")) or not part.exists() or _is_own_part(part, file)
        if part.is_symlink() or not is_own:
            if not state.fingerprint:
                journal.remove()  # it was made a moment ago
            what = "is a symbolic link" if part.is_symlink() else "exists, and no unfinished output has made it"
            raise CannotWrite(f"{part} {what}", f"move {part.name} away, or choose another -o")


def _is_own_part(part: Path, file: FilePlan) -> bool:
    """Whether a file without a journal is one that this plan began: it has its header, or nothing."""
    if not part.is_file():
        return False
    begin = _read_header(part, file)
    return not begin.strip(b"\0") or begin == file.header


def _check_existing(plan: ConversionPlan, state: JournalState, *, overwrite: bool) -> None:
    """Refuse to replace an output or to discard the finished tensors of another plan. Raises CannotWrite."""
    _, part = _part_paths(plan)[0]
    if state.finished and state.fingerprint != plan.fingerprint and part.exists() and not overwrite:
        raise CannotWrite(
            f"{part} is an unfinished output of other options, another input or another version",
            "--overwrite starts over",
        )
    for file in plan.files:
        if file.path.exists() and not overwrite and not _is_same_mmproj(plan, file):
            raise CannotWrite(f"{file.path} already exists", "--overwrite replaces it once the new file is complete")


def _check_free_space(plan: ConversionPlan) -> None:
    """Raise NoSpace if the output does not fit on the disk."""
    disk_space = required_disk_space(plan)
    if disk_space.needed > disk_space.free:
        raise NoSpace(
            f"needs {format_bytes(disk_space.needed)}, {disk_space.folder} has {format_bytes(disk_space.free)} free "
            f"({format_bytes(disk_space.needed - disk_space.free)} short)",
            "-o on another disk, or a smaller --type",
        )


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Translate OSError inside the block into NoSpace, CannotWrite or QuantizeError with a hint."""
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
        if error.errno == errno.ENAMETOOLONG:  # also if only the names beside it are
            raise CannotWrite(f"cannot write {path}: its name is too long", "a shorter name for -o") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
            raise CannotWrite(f"cannot write to {path.parent}: {reason}", "-o in another folder") from error
        raise QuantizeError(f"cannot write {path}: {reason}") from error


def _part_paths(plan: ConversionPlan) -> list[tuple[FilePlan, Path]]:
    """Pair each file with its temporary path.

    All are derived from the name of the first file, which is unique to this output; the name of the mmproj file is the
    same for all outputs of a model.
    """
    first = plan.files[0].path
    names = [f"{first.name}.part", *(f"{first.name}.{number}.part" for number in range(1, len(plan.files)))]
    return [(file, first.with_name(name)) for file, name in zip(plan.files, names, strict=True)]


def _journal_path(plan: ConversionPlan) -> Path:
    first = plan.files[0].path
    return first.with_name(f"{first.name}.journal")


def _is_same_mmproj(plan: ConversionPlan, file: FilePlan) -> bool:
    """Whether the existing file is an mmproj with the same header, made with another text type of this model."""
    return file in plan.vision_files and _has_size(file.path, file) and _has_header(file)


def _has_header(file: FilePlan) -> bool:
    return _read_header(file.path, file) == file.header


def _read_header(path: Path, file: FilePlan) -> bytes:
    """As many bytes from the start of the file at `path` as the header of `file` has."""
    with path.open("rb") as existing:
        return existing.read(len(file.header))


def _allocated_bytes(path: Path) -> int:
    """Disk space in bytes that a sparse file already occupies; 0 if it does not exist."""
    return path.stat().st_blocks * 512 if path.exists() else 0  # st_blocks is in units of 512 bytes everywhere


def _finished_tensors(plan: ConversionPlan, state: JournalState) -> frozenset[tuple[int, int]]:
    """The (file index, tensor index) of the tensors that are on disk; none if the journal is of another plan."""
    if state.fingerprint != plan.fingerprint:
        return frozenset()
    if state.complete:
        all_present = all(_has_size(part, file) or _has_size(file.path, file) for file, part in _part_paths(plan))
        pairs = ((number, tensor) for number, file in enumerate(plan.files) for tensor in range(len(file.tensors)))
        return frozenset(pairs if all_present else ())
    if not all(_has_size(part, file) for file, part in _part_paths(plan)):
        return frozenset()
    numbers = [range(len(file.tensors)) for file in plan.files]  # a damaged line may have any
    return frozenset(
        (file, tensor) for file, tensor in state.finished if file in range(len(numbers)) and tensor in numbers[file]
    )


def _has_size(path: Path, file: FilePlan) -> bool:
    return path.is_file() and path.stat().st_size == file.n_bytes


def _open_part_files(plan: ConversionPlan, journal: Journal, stack: ExitStack, *, resumed: bool) -> tuple[int, ...]:
    """Open each temporary file, write its header and set its full length; `stack` closes the descriptors."""
    files = []
    with translate_disk_errors(plan.files[0].path):
        if not resumed:
            journal.start(plan.fingerprint)
        journal.append([f"pid {os.getpid()}"])
    for file, part in _part_paths(plan):
        with translate_disk_errors(file.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | (0 if resumed else os.O_TRUNC)
            descriptor = os.open(part, flags, 0o644)
            stack.callback(os.close, descriptor)
            os.ftruncate(descriptor, file.n_bytes)  # sparse: blocks are allocated when data is written
            write_all(descriptor, file.header, 0)
            files.append(descriptor)
    return tuple(files)


def _rename_parts(plan: ConversionPlan) -> None:
    """Rename the temporary files that still exist to their final names, durably. Raises OSError."""
    replace_files([(part, file.path) for file, part in _part_paths(plan) if part.exists()])
    sync_folder(plan.files[0].path.parent)  # also if an earlier run was killed after its renames


def _remove_parts(plan: ConversionPlan, journal: Journal) -> None:
    """Delete the temporary files and the journal."""
    for _, part in _part_paths(plan):
        part.unlink(missing_ok=True)
    journal.remove()
