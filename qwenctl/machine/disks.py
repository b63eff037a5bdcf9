"""The file systems on which models lie: room, kind, and how fast a file is read from its start to its end.

Folders come in, `Disk` values go out. A file is read past the page cache where the system can do that, so that the
speed is the disk's and not the memory's.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MOUNTS, _DEVICES = Path("/proc/self/mountinfo"), Path("/sys/dev/block")
_NETWORKED = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|glusterfs|gpfs|beegfs|fuse\.(sshfs|s3fs|gcsfuse|rclone)"
)
_PIECE, _ALIGNMENT = 1 << 23, 1 << 12


@dataclass(frozen=True)
class Disk:
    """A file system; `is_rotational` is None where the system does not tell."""

    mount: Path
    file_system: str
    total_bytes: int
    free_bytes: int
    is_networked: bool
    is_rotational: bool | None


@dataclass(frozen=True)
class ReadSpeed:
    """Bytes a second; `past_cache` says that what the page cache holds was not counted in."""

    bytes_per_second: float
    n_bytes: int
    past_cache: bool


def free_disk(folder: Path) -> int:
    """Bytes that are free on the file system of `folder`, or of the nearest folder above that exists."""
    return shutil.disk_usage(_existing(folder)).free


def read_disks(folders: Iterable[Path], mounts: Path = _MOUNTS, devices: Path = _DEVICES) -> list[Disk]:
    """The file systems of these folders, each once, in the order in which they come."""
    found = (read_disk(folder, mounts, devices) for folder in folders)
    return list({disk.mount: disk for disk in found}.values())


def read_disk(folder: Path, mounts: Path = _MOUNTS, devices: Path = _DEVICES) -> Disk:
    """The file system of `folder`, or of the nearest folder above that exists."""
    there = _existing(folder).resolve()
    usage = shutil.disk_usage(there)
    mount, file_system, device = _mount_of(there, mounts)
    networked = bool(_NETWORKED.fullmatch(file_system))
    return Disk(mount, file_system, usage.total, usage.free, networked, _is_rotational(devices / device))


def read_speed(path: Path, most_bytes: int = 1 << 30, most_seconds: float = 3.0) -> ReadSpeed:
    """How fast `path` is read from its start: at most so many bytes, and for so long. Raises OSError."""
    descriptor, direct = _open_past_cache(path)
    buffer = mmap.mmap(-1, _PIECE)  # aligned to a page, as reading past the cache asks for
    try:
        start, done = time.perf_counter(), 0
        while done < most_bytes and time.perf_counter() - start < most_seconds:
            n_bytes = os.preadv(descriptor, [buffer], done)
            done += n_bytes
            if n_bytes < _PIECE:
                break
        return ReadSpeed(done / (time.perf_counter() - start), done, direct)
    finally:
        buffer.close()
        os.close(descriptor)


def _open_past_cache(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether reads of it go past the page cache."""
    if sys.platform == "darwin":
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
        return descriptor, fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1) != -1
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, _ALIGNMENT)
        try:
            os.preadv(descriptor, [buffer], 0)
        finally:
            buffer.close()
        return descriptor, True
    except OSError:  # the file system knows no such thing
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return descriptor, False


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _mount_of(path: Path, mounts: Path) -> tuple[Path, str, str]:
    """Where the file system of `path` is mounted, its type, and its device as "MAJOR:MINOR" (proc(5), mountinfo)."""
    found = (Path("/"), "", "")
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= len(found[0].parts):  # a later mount hides an earlier one
            found = (point, kind[0], fields[2])
    return found


def _is_rotational(device: Path) -> bool | None:
    """Of a partition its disk tells. Virtual disks say yes whatever they are, so that they tell nothing."""
    there = device.resolve()
    if there.name.startswith(("vd", "xvd")):
        return None
    for folder in (there, there.parent):
        try:
            return (folder / "queue/rotational").read_text().strip() == "1"
        except OSError:
            continue
    return None
