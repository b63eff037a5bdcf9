"""The file systems that hold models: free space, type, and how fast a file can be read sequentially.

Folders come in, `Disk` values go out. Files are read bypassing the page cache where the system allows it, so that the
disk is measured and not the memory.
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

from qwenctl.files.paths import nearest_existing

_MOUNTS, _DEVICES = Path("/proc/self/mountinfo"), Path("/sys/dev/block")
_NETWORKED = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|glusterfs|gpfs|beegfs|fuse\.(sshfs|s3fs|gcsfuse|rclone)"
)
_PIECE, _ALIGNMENT = 1 << 23, 1 << 12  # bytes of one read, and the alignment of direct I/O


@dataclass(frozen=True)
class Disk:
    """A file system; `is_rotational` is None if unknown."""

    mount: Path
    file_system: str
    total_bytes: int
    free_bytes: int
    is_networked: bool
    is_rotational: bool | None


@dataclass(frozen=True)
class ReadSpeed:
    """Bytes/s over the first `n_bytes` of a file; `past_cache` says that the page cache was bypassed."""

    bytes_per_second: float
    n_bytes: int
    past_cache: bool


def free_disk(folder: Path) -> int:
    """Free bytes on the file system of `folder`, or of its nearest existing parent."""
    return shutil.disk_usage(nearest_existing(folder)).free


def read_disks(folders: Iterable[Path], mounts: Path = _MOUNTS, devices: Path = _DEVICES) -> list[Disk]:
    """The file systems of these folders, without duplicates, in order of appearance."""
    disks = (read_disk(folder, mounts, devices) for folder in folders)
    return list({disk.mount: disk for disk in disks}.values())


def read_disk(folder: Path, mounts: Path = _MOUNTS, devices: Path = _DEVICES) -> Disk:
    """The file system of `folder`, or of its nearest existing parent."""
    existing = nearest_existing(folder).resolve()
    usage = shutil.disk_usage(existing)
    mount, file_system, device = _mount_of(existing, mounts)
    networked = bool(_NETWORKED.fullmatch(file_system))
    return Disk(mount, file_system, usage.total, usage.free, networked, _is_rotational(devices / device))


def read_speed(path: Path, max_bytes: int = 1 << 30, max_seconds: float = 3.0) -> ReadSpeed:
    """How fast `path` is read from its start, up to `max_bytes` and `max_seconds`. Raises OSError."""
    descriptor, direct = _open_past_cache(path)
    buffer = mmap.mmap(-1, _PIECE)  # page-aligned, as direct I/O requires
    try:
        start, done = time.perf_counter(), 0
        while done < max_bytes and time.perf_counter() - start < max_seconds:
            n_bytes = os.preadv(descriptor, [buffer], done)
            done += n_bytes
            if n_bytes < _PIECE:
                break
        return ReadSpeed(done / (time.perf_counter() - start), done, direct)
    finally:
        buffer.close()
        os.close(descriptor)


def _open_past_cache(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether its reads bypass the page cache."""
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
    except OSError:  # the file system does not support direct I/O
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return descriptor, False


def _mount_of(path: Path, mounts: Path) -> tuple[Path, str, str]:
    """The mount point of the file system of `path`, its type, and its device as "MAJOR:MINOR" (proc(5), mountinfo)."""
    mount = (Path("/"), "", "")
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return mount
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, source_fields = left.split(), right.split()
        # Special characters, such as spaces, are escaped as octal numbers.
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= len(mount[0].parts):  # a later mount hides an earlier one
            mount = (point, source_fields[0], fields[2])
    return mount


def _is_rotational(device: Path) -> bool | None:
    """What the disk of a partition reports. Virtual disks always report yes, so for them it is unknown."""
    resolved = device.resolve()
    if resolved.name.startswith(("vd", "xvd")):
        return None
    for folder in (resolved, resolved.parent):
        try:
            return (folder / "queue/rotational").read_text().strip() == "1"
        except OSError:
            continue
    return None
