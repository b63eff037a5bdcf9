"""CPU, disk, and memory facts, as read from the system's files."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil
import pytest

from qwenctl.machine.cpu import read_cpu, usable_cores
from qwenctl.machine.device_probe import cpu_features
from qwenctl.machine.disks import read_disk, read_disks, read_speed
from qwenctl.machine.memory import read_swap


def test_cpu_matches_this_machine() -> None:
    cpu = read_cpu()
    assert cpu.physical_cores == psutil.cpu_count(logical=False)
    assert 1 <= cpu.usable_cores <= cpu.physical_cores
    assert cpu.model
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        assert "sse2" in cpu.flags


def test_cpu_model_flags_and_numa_nodes_are_read_from_system_files(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Epyc 9\nflags\t\t: fpu avx2 f16c\n\nprocessor\t: 1\n"
    )
    for node in ("node0", "node1", "possible"):
        (tmp_path / "nodes" / node).mkdir(parents=True)
    cpu = read_cpu(tmp_path / "cpuinfo", tmp_path / "nodes")
    assert (cpu.model, cpu.flags, cpu.numa_nodes) == ("Epyc 9", {"fpu", "avx2", "f16c"}, 2)


@pytest.mark.parametrize(
    ("group", "files"),
    [("0::/a/b", {"cpu.max": "100000 100000"}),
     ("3:cpu,cpuacct:/a", {"cpu.cfs_quota_us": "100000", "cpu.cfs_period_us": "100000"})],
)  # fmt: skip
def test_container_limited_to_one_processor_has_one_usable_core(
    group: str, files: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(f"{group}\n")
    folder = tmp_path / "fs" / ("a" if "::" in group else "cpu/a")
    folder.mkdir(parents=True)
    assert usable_cores(tmp_path / "fs", tmp_path / "cgroup") >= 1
    for name, text in files.items():
        (folder / name).write_text(text)
    assert usable_cores(tmp_path / "fs", tmp_path / "cgroup") == 1


def test_hybrid_cpu_counts_only_performance_cores(tmp_path: Path) -> None:
    (tmp_path / "cpu_core").mkdir()
    (tmp_path / "cpu_core" / "cpus").write_text("0-1\n")
    for thread in (0, 1):
        topology = tmp_path / "system/cpu" / f"cpu{thread}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text("0-1\n")
    assert usable_cores(performance=tmp_path / "cpu_core" / "cpus") == 1  # two threads of one core


def test_cpu_features_are_parsed_from_system_info_line() -> None:
    info = "CUDA : ARCHS = 890 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX512 = 0 | SVE_CNT = 16 | REPACK = 1 | "
    assert cpu_features(info) == ["SSE3", "SVE_CNT", "REPACK"]
    assert cpu_features("nothing") == []


def test_disk_is_found_by_mount_of_folder(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "mounts").write_text(MOUNTS.format(root=root))
    disk = root / "sys" / "sdb" / "sdb1"
    disk.mkdir(parents=True)
    (root / "sys" / "8:17").symlink_to(disk)
    (root / "sys" / "sdb" / "queue").mkdir()
    (root / "sys" / "sdb" / "queue" / "rotational").write_text("1\n")
    (root / "local disk" / "x").mkdir(parents=True)
    network = read_disk(root / "not" / "there", root / "mounts", root / "sys")
    assert (network.mount, network.file_system, network.is_networked, network.is_rotational) == (
        root,
        "nfs4",
        True,
        None,
    )
    local = read_disk(root / "local disk" / "x", root / "mounts", root / "sys")
    assert (local.mount, local.is_networked, local.is_rotational) == (root / "local disk", False, True)
    assert len(read_disks([root, root / "sys", root / "local disk"], root / "mounts", root / "sys")) == 2


def test_read_speed_reads_whole_file_or_up_to_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * ((9 << 20) + 5))
    speed = read_speed(tmp_path / "a")
    assert speed.n_bytes == (9 << 20) + 5
    assert speed.bytes_per_second > 0
    assert read_speed(tmp_path / "a", max_bytes=1 << 20).n_bytes == 8 << 20


def test_swap_used_is_within_total() -> None:
    assert 0 <= read_swap().used_bytes <= read_swap().total_bytes


MOUNTS = """\
22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:40 / {root} rw shared:1 - nfs4 server:/models rw
31 30 8:17 / {root}/local\\040disk rw - xfs /dev/sdb1 rw
"""
