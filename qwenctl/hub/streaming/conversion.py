"""Quantize a checkpoint from the Hub to GGUF files while it downloads.

A listing and the options of a conversion come in; the GGUF files and their lock file go out. `plan_conversion`
downloads headers and makes the plan; `convert_remote` executes it with shards from a buffer folder next to the output,
the "spool". Nothing else stays on disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from quantize.convert import ConversionProgress as ConversionProgress
from quantize.convert import ConversionResult, convert, made_result
from quantize.formatting import format_bytes
from quantize.output.partial_output import check_paths, is_written, required_disk_space
from quantize.plan import ConversionPlan, QuantizeOptions, make_plan, output_path
from quantize.recipe.recipes import find_recipe
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.locks import file_lock
from qwenctl.hub.download.downloader import Progress
from qwenctl.hub.local.lock_file import LOCK_NAME, LockedFile, LockedModel, add_to_lock, make_lock_entry, read_lock
from qwenctl.hub.local.recipe_args import recipe_to_args
from qwenctl.hub.local.registry import LocalConversion, register_buffer, register_conversion, registered_models
from qwenctl.hub.pull import PullEvents, PullOptions
from qwenctl.hub.repository.listing import Listing
from qwenctl.hub.streaming.header_only import HeaderOnlyCheckpoint, checkpoint_files, fetch_headers_only
from qwenctl.hub.streaming.shard_buffer import open_shard_buffer

# Free space for this many times the bytes that are needed; name of the folder for shards in the spool.
_MARGIN, _SHARDS = 1.02, "shards"


@dataclass(frozen=True)
class StreamingConversion:
    """A plan whose shards are still on the Hub; they are buffered in `spool_folder`, at most `spool_limit` bytes."""

    listing: Listing
    plan: ConversionPlan
    options: QuantizeOptions
    checkpoint: HeaderOnlyCheckpoint
    spool_folder: Path
    spool_limit: int

    @property
    def source_bytes(self) -> int:
        """Size in bytes of the shards that the plan needs."""
        return sum(
            self.checkpoint.shards[path].size for path in self.plan.source_files() & self.checkpoint.shards.keys()
        )

    @property
    def spool_bytes(self) -> int:
        """The maximum size in bytes that the spool will reach."""
        return min(self.spool_limit, self.source_bytes)

    @property
    def full_download_bytes(self) -> int:
        """The disk space of the usual way: download the checkpoint, convert it to a BF16 GGUF, quantize that."""
        weights = sum(tensor_plan.tensor.elements for file in self.plan.text_files for tensor_plan in file.tensors)
        return self.source_bytes + 2 * weights + self.plan.n_bytes


@contextmanager
def plan_conversion(
    listing: Listing,
    output: Path | None,
    options: QuantizeOptions,
    spool_limit: int,
    pull_options: PullOptions,
    events: PullEvents,
) -> Iterator[StreamingConversion]:
    """Download the headers and plan the conversion; inside the block, the lock on the output is held.

    `spool_limit` is in bytes. Raises QwenctlError and the errors of `make_plan`.
    """
    path = output_path(output, listing.repository.rpartition("/")[2], find_recipe(options.type_name))
    if not path.parent.is_dir():
        raise QwenctlError(f"no such folder: {path.parent}", f"mkdir -p {path.parent}", ExitCode.CANNOT_CREATE)
    spool_folder = path.with_name(f"{path.name}.spool")
    try:
        with file_lock(path.with_name(f"{path.name}.spool.lock"), pull_options.wait, events.notify):
            try:
                checkpoint = fetch_headers_only(
                    listing, spool_folder, pull_options.download_options, events.notify, events.warn
                )
                plan = make_plan(checkpoint.folder, path, options, headers_only=True)
                check_paths(plan)
                yield StreamingConversion(listing, plan, options, checkpoint, spool_folder, spool_limit)
            finally:
                # Keep the folder only if it has shards, which the next run can use.
                if not (spool_folder / _SHARDS).is_dir() or not any((spool_folder / _SHARDS).iterdir()):
                    shutil.rmtree(spool_folder, ignore_errors=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise QwenctlError(f"cannot write to {path.parent} ({reason})", "-o in another folder", ExitCode.IO) from error


def convert_remote(
    conversion: StreamingConversion,
    threads: int,
    report: Callable[[Progress | None, ConversionProgress], None],
    pull_options: PullOptions,
    events: PullEvents,
    *,
    overwrite: bool,
) -> tuple[ConversionResult, tuple[LockedFile, ...]]:
    """Execute the plan; returns the result of the conversion and the output files with their hashes.

    Raises QwenctlError and the errors of `convert`; finished tensors and downloaded shards are saved.
    """
    if not overwrite and (made := _find_made(conversion, events)):
        return made
    folder, outputs = conversion.spool_folder / _SHARDS, tuple[LockedFile, ...]()

    def record(hashes: tuple[str, ...]) -> None:
        nonlocal outputs
        outputs = _record_output(conversion, hashes)

    _check_disk_space(conversion, folder)
    register_buffer(conversion.spool_folder)  # first, so that `qwenctl clean` finds it after a kill
    with open_shard_buffer(
        conversion.listing,
        conversion.plan,
        conversion.checkpoint,
        folder,
        conversion.spool_limit,
        pull_options.download_options,
        events.warn,
    ) as shard_buffer:
        result = convert(
            conversion.plan,
            threads,
            lambda progress: report(shard_buffer.progress(), progress),
            overwrite=overwrite,
            sources=shard_buffer,
            on_renamed=record,
        )
    shutil.rmtree(conversion.spool_folder, ignore_errors=True)
    return result, outputs


def _record_output(conversion: StreamingConversion, hashes: Sequence[str]) -> tuple[LockedFile, ...]:
    """Add the output to its lock file and to the models on this machine. Raises OSError."""
    files = conversion.plan.files
    outputs = tuple(LockedFile(file.path.name, file.n_bytes, one) for file, one in zip(files, hashes, strict=True))
    add_to_lock(files[0].path.parent, replace(_lock_entry(conversion), outputs=outputs))
    _register(conversion)
    return outputs


def _register(conversion: StreamingConversion) -> None:
    paths = tuple(str(file.path.absolute()) for file in conversion.plan.files)
    made = LocalConversion(paths, conversion.listing.repository, conversion.listing.commit, conversion.plan.recipe.name)
    if made not in registered_models():
        register_conversion(made)


def _find_made(
    conversion: StreamingConversion, events: PullEvents
) -> tuple[ConversionResult, tuple[LockedFile, ...]] | None:
    """What an earlier run has made and listed in the lock file, if it is all there; what is left of it is removed."""
    plan, listing = conversion.plan, conversion.listing
    names = [(file.path.name, file.n_bytes) for file in plan.files]
    key = (listing.repository, listing.commit, "", recipe_to_args(conversion.options))
    with suppress(QwenctlError):  # no lock file, or none that can be read
        for model in read_lock(plan.files[0].path.parent / LOCK_NAME):
            if model.key == key and [(file.path, file.size) for file in model.outputs] == names:
                result = made_result(
                    plan,
                    [file.sha256 for file in model.outputs],
                    lambda: events.notify(f"checking {plan.files[0].path}, which is here already"),
                )
                if result:
                    shutil.rmtree(conversion.spool_folder, ignore_errors=True)
                    _register(conversion)
                    return result, model.outputs
    return None


def _check_disk_space(conversion: StreamingConversion, folder: Path) -> None:
    """Raise QwenctlError if the output and the spool, plus 2 %, do not fit on the disk."""
    disk_space = required_disk_space(conversion.plan)
    if is_written(conversion.plan):  # nothing is downloaded any more
        return
    # Shards of an earlier run are in the buffer already, so they need no more space.
    spooled = sum(path.stat().st_blocks * 512 for path in folder.iterdir()) if folder.is_dir() else 0
    needed = int((disk_space.needed + max(0, conversion.spool_bytes - spooled)) * _MARGIN)
    if needed > disk_space.free:
        raise QwenctlError(
            f"needs {format_bytes(needed)}, {disk_space.folder} has {format_bytes(disk_space.free)} free "
            f"({format_bytes(needed - disk_space.free)} short)",
            "-o on another disk, a smaller --spool or a smaller quantization",
            ExitCode.IO,
        )


def _lock_entry(conversion: StreamingConversion) -> LockedModel:
    """Build the lock file entry, without the outputs."""
    folder = conversion.checkpoint.folder
    files = [(file, folder / file.path) for file in checkpoint_files(conversion.listing)]
    return replace(make_lock_entry(conversion.listing, "", files), recipe=recipe_to_args(conversion.options))
