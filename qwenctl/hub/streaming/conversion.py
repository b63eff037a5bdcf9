"""A checkpoint of the Hub becomes GGUF files while it arrives, without ever lying here as a whole.

A listing and the options of a conversion come in. `plan_conversion` fetches headers and makes the plan, which
`convert_remote` follows with shards from a spool beside the output. The output and its lock file stay, nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from quantize.convert import ConversionProgress as ConversionProgress
from quantize.convert import ConversionResult, convert
from quantize.formatting import format_bytes
from quantize.output import check_paths, required_disk_space
from quantize.plan import ConversionPlan, QuantizeOptions, make_plan, output_path
from quantize.recipe.recipes import find_recipe
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.locks import file_lock
from qwenctl.hub.download.downloader import Progress
from qwenctl.hub.local.lock_file import LockedFile, LockedModel, add_to_lock, lock_model, sha256_of
from qwenctl.hub.local.registry import LocalConversion, register_buffer, register_conversion
from qwenctl.hub.pull import PullEvents, PullOptions
from qwenctl.hub.repository.listing import Listing
from qwenctl.hub.streaming.header_only import HeaderOnlyCheckpoint, checkpoint_files, fetch_headers_only
from qwenctl.hub.streaming.recipe_args import recipe_to_args
from qwenctl.hub.streaming.shard_buffer import open_spool

_MARGIN, _SHARDS = 1.02, "shards"


@dataclass(frozen=True)
class StreamingConversion:
    """A plan whose shards are still on the Hub. `spool` is the folder for them, which holds at most `limit` bytes."""

    listing: Listing
    plan: ConversionPlan
    options: QuantizeOptions
    skeleton: HeaderOnlyCheckpoint
    spool: Path
    limit: int

    @property
    def source_bytes(self) -> int:
        """Bytes of the shards that are needed."""
        return sum(self.skeleton.shards[path].size for path in self.plan.source_files() & self.skeleton.shards.keys())

    @property
    def spool_bytes(self) -> int:
        """The most that the spool will hold."""
        return min(self.limit, self.source_bytes)

    @property
    def usual_bytes(self) -> int:
        """The disk that it takes to fetch the whole checkpoint, to convert it to BF16 and to quantize that."""
        weights = sum(planned.tensor.elements for file in self.plan.text_files for planned in file.tensors)
        return self.source_bytes + 2 * weights + self.plan.n_bytes


@contextmanager
def plan_conversion(
    listing: Listing, output: Path | None, options: QuantizeOptions, limit: int, pull: PullOptions, shown: PullEvents
) -> Iterator[StreamingConversion]:
    """Inside, this process alone works on the output. Raises QwenctlError and the errors of `make_plan`."""
    path = output_path(output, listing.repository.rpartition("/")[2], find_recipe(options.type_name))
    if not path.parent.is_dir():
        raise QwenctlError(f"no such folder: {path.parent}", f"mkdir -p {path.parent}", ExitCode.CANNOT_CREATE)
    spool = path.with_name(f"{path.name}.spool")
    try:
        with file_lock(path.with_name(f"{path.name}.spool.lock"), pull.wait, shown.tell):
            try:
                skeleton = fetch_headers_only(listing, spool, pull.settings, shown.tell, shown.warn)
                plan = make_plan(skeleton.folder, path, options)
                check_paths(plan)
                yield StreamingConversion(listing, plan, options, skeleton, spool, limit)
            finally:
                if not (spool / _SHARDS).is_dir() or not any((spool / _SHARDS).iterdir()):
                    shutil.rmtree(spool, ignore_errors=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise QwenctlError(f"cannot write to {path.parent} ({reason})", "-o in another folder", ExitCode.IO) from error


def convert_remote(
    remote: StreamingConversion,
    threads: int,
    report: Callable[[Progress | None, ConversionProgress], None],
    pull: PullOptions,
    shown: PullEvents,
    *,
    overwrite: bool,
) -> tuple[ConversionResult, tuple[LockedFile, ...]]:
    """Follow the plan; what was done, and the files with their hashes.

    Raises QwenctlError and the errors of `convert`; what is finished and what has come are kept.
    """
    folder = remote.spool / _SHARDS
    _check_room(remote, folder)
    register_buffer(remote.spool)
    opened = open_spool(remote.listing, remote.plan, remote.skeleton, folder, remote.limit, pull.settings, shown.warn)
    with opened as spool:
        result = convert(
            remote.plan,
            threads,
            lambda progress: report(spool.progress(), progress),
            overwrite=overwrite,
            sources=spool,
        )
    model = _locked(remote)
    shutil.rmtree(remote.spool, ignore_errors=True)
    shown.tell("hashing the output for its lock file")
    outputs = tuple(LockedFile(path.name, path.stat().st_size, sha256_of(path)) for path in result.paths)
    add_to_lock(result.paths[0].parent, replace(model, outputs=outputs))
    paths = tuple(str(path.absolute()) for path in result.paths)
    register_conversion(
        LocalConversion(paths, remote.listing.repository, remote.listing.commit, remote.plan.recipe.name)
    )
    return result, outputs


def _check_room(remote: StreamingConversion, folder: Path) -> None:
    """Raise QwenctlError if the disk has no room for the output and the spool, and 2 % more."""
    room = required_disk_space(remote.plan)
    spooled = sum(path.stat().st_blocks * 512 for path in folder.iterdir()) if folder.is_dir() else 0
    needed = int((room.needed + max(0, remote.spool_bytes - spooled)) * _MARGIN)
    if needed > room.free:
        raise QwenctlError(
            f"needs {format_bytes(needed)}, {room.folder} has {format_bytes(room.free)} free "
            f"({format_bytes(needed - room.free)} short)",
            "-o on another disk, a smaller --spool or a smaller quantization",
            ExitCode.IO,
        )


def _locked(remote: StreamingConversion) -> LockedModel:
    """The entry of the lock file, without the outputs."""
    folder = remote.skeleton.folder
    files = [(file, folder / file.path) for file in checkpoint_files(remote.listing)]
    return replace(lock_model(remote.listing, "", files), recipe=recipe_to_args(remote.options))
