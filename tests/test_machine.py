"""What the machine is found to be: processors, disks, devices of this machine and by RPC, and how fast memories are."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import read_object, write_object
from qwenctl.machine.bandwidth_cache import MemoryBandwidth, device_key, read_speeds
from qwenctl.machine.cpu import read_cpu, usable_cores
from qwenctl.machine.device_probe import cpu_features
from qwenctl.machine.devices import GgmlDevice, read_build, read_devices
from qwenctl.machine.disks import read_disk, read_disks, read_speed
from qwenctl.machine.inspect import inspect_machine, to_plan_machine
from qwenctl.machine.memory import read_swap


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which measurements are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "qwenctl"


# ------------------------------------------------------------------ processors


def test_the_processors_are_those_of_this_machine() -> None:
    cpu = read_cpu()
    assert cpu.physical_cores == psutil.cpu_count(logical=False)
    assert 1 <= cpu.usable_cores <= cpu.physical_cores
    assert cpu.model
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        assert "sse2" in cpu.flags


def test_processors_and_nodes_are_read_from_the_systems_files(tmp_path: Path) -> None:
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
def test_a_container_of_one_processor_has_one_core(group: str, files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(f"{group}\n")
    folder = tmp_path / "fs" / ("a" if "::" in group else "cpu/a")
    folder.mkdir(parents=True)
    assert usable_cores(tmp_path / "fs", tmp_path / "cgroup") >= 1
    for name, text in files.items():
        (folder / name).write_text(text)
    assert usable_cores(tmp_path / "fs", tmp_path / "cgroup") == 1


def test_slow_cores_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "cpu_core").mkdir()
    (tmp_path / "cpu_core" / "cpus").write_text("0-1\n")
    for thread in (0, 1):
        topology = tmp_path / "system/cpu" / f"cpu{thread}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text("0-1\n")
    assert usable_cores(performance=tmp_path / "cpu_core" / "cpus") == 1  # two threads of one core


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_a_process_held_to_one_processor_has_one_core() -> None:
    code = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]); "
    code += "from qwenctl.machine.cpu import usable_cores; print(usable_cores())"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"1\n"


def test_the_features_of_the_build_are_read_from_its_line() -> None:
    info = "CUDA : ARCHS = 890 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX512 = 0 | SVE_CNT = 16 | REPACK = 1 | "
    assert cpu_features(info) == ["SSE3", "SVE_CNT", "REPACK"]
    assert cpu_features("nothing") == []


# ------------------------------------------------------------------ disks and swap


MOUNTS = """\
22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:40 / {root} rw shared:1 - nfs4 server:/models rw
31 30 8:17 / {root}/local\\040disk rw - xfs /dev/sdb1 rw
"""


def test_a_disk_is_known_by_the_mount_that_a_folder_is_on(tmp_path: Path) -> None:
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


def test_a_file_is_read_from_its_start_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * ((9 << 20) + 5))
    speed = read_speed(tmp_path / "a")
    assert speed.n_bytes == (9 << 20) + 5
    assert speed.bytes_per_second > 0
    assert read_speed(tmp_path / "a", max_bytes=1 << 20).n_bytes == 8 << 20


def test_swap_is_that_of_the_system() -> None:
    assert 0 <= read_swap().used_bytes <= read_swap().total_bytes


# ------------------------------------------------------------------ devices


def test_the_build_tells_its_backends_and_features() -> None:
    build = read_build()
    assert build.error == ""
    assert "CPU" in build.backends
    assert "cpu" in {device.kind for device in build.devices}
    if platform.machine() == "x86_64":
        assert "SSE3" in build.features


def test_a_build_that_cannot_be_asked_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text("raise OSError('libcudart.so.12: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert read_build().error == "OSError: libcudart.so.12: no such file"
    assert read_devices() == ()


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(QwenctlError) as refused:
        inspect_machine(["127.0.0.1:1"])
    assert refused.value.code == ExitCode.NETWORK
    assert "127.0.0.1:1" in refused.value.message


# ------------------------------------------------------------------ speeds


def test_speeds_are_measured_once_and_kept(cache: Path) -> None:
    first = to_plan_machine(inspect_machine())
    (saved,) = cache.glob("machine-*.json")
    content, since = saved.read_bytes(), saved.stat().st_mtime_ns
    assert first.ram_bandwidth is not None
    assert 1e8 < first.ram_bandwidth < 1e13  # from a slow phone to a rack
    assert first.cores >= 1
    found = inspect_machine()
    if found.threads == first.cores:  # somebody else may have taken a core meanwhile
        assert found.ram_speed.bandwidth == first.ram_bandwidth
        assert (saved.read_bytes(), saved.stat().st_mtime_ns) == (content, since)


def test_a_damaged_file_of_speeds_is_measured_again(cache: Path) -> None:
    devices = read_devices()
    for text in ("[1", '{"speeds": {"x": {"bandwidth": "fast", "copy_rate": 1}}, "measured": ""}'):
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "machine-x.json").write_text(text)
        saved = read_speeds("x", devices, 1)
        assert {device_key(device, 1) for device in devices} <= set(saved.speeds)
        assert read_object(cache / "machine-x.json")["measured"] == saved.measured
        assert read_speeds("x", devices, 1) == saved


def test_speeds_that_cannot_be_kept_are_measured_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    devices = read_devices()
    saved = read_speeds("x", devices, 1)
    assert saved.path is None
    assert saved.speeds[device_key(devices[0], 1)].bandwidth


def test_a_device_that_cannot_be_measured_has_no_speed_and_is_not_tried_again(cache: Path) -> None:
    absent = GgmlDevice("CUDA0", "gone", "gpu", 1 << 34, 1 << 34, "CUDA")
    devices = [*read_devices(), absent]
    saved = read_speeds("x", devices, 1)
    assert saved.speeds[device_key(absent, 1)] == MemoryBandwidth()
    assert saved.speeds[device_key(devices[0], 1)].bandwidth
    assert read_speeds("x", devices, 1) == saved


def test_a_driver_that_ends_the_process_takes_only_its_own_speed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second device is measured by a process that is killed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'qwenctl.machine.bandwidth_probe' in sys.orig_argv:\n"
        "    from qwenctl.machine import ggml\n"
        "    devices = ggml.all_devices\n"
        "    ggml.all_devices = lambda library: devices(library) * 2\n"
        "    seen = []\n"
        "    init = ggml.set_threads\n"
        "    def killed(*arguments):\n"
        "        seen.append(1)\n"
        "        if len(seen) == 2:\n"
        f"            open({str(tmp_path / 'killed')!r}, 'w').close()\n"
        "            os.abort()\n"
        "        init(*arguments)\n"
        "    ggml.set_threads = killed\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    devices = read_devices()
    assert read_speeds("x", devices, 1).speeds[device_key(devices[0], 1)].bandwidth
    assert (tmp_path / "killed").exists()


SERVER = """
import ctypes, sys
from qwenctl.machine.ggml import all_devices, rpc_library
ggml = rpc_library()
devices = (ctypes.c_void_p * 1)(all_devices(ggml)[0])
ggml.ggml_backend_rpc_start_server(sys.argv[1].encode(), None, 1, 1, devices)
"""


@contextmanager
def server() -> Iterator[str]:
    """An RPC server on loopback with this machine's processors as its device."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen([sys.executable, "-c", SERVER, endpoint], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", int(endpoint.split(":")[1]))) == 0:
                    break
            time.sleep(0.05)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def test_a_device_by_rpc_is_one_with_memory_of_its_own_and_speeds(cache: Path) -> None:
    with server() as endpoint:
        found = to_plan_machine(inspect_machine([endpoint]))
    (device,) = found.devices
    assert (device.name, device.backend.split("[")[0], device.description) == ("RPC0", "RPC", endpoint)
    assert device.total_bytes == psutil.virtual_memory().total
    assert device.bandwidth is not None
    assert device.copy_rate is not None
    assert 1e6 < device.copy_rate < 1e12
    assert 1e6 < device.bandwidth < 1e13


# ------------------------------------------------------------------ files


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_object(tmp_path / "a", {"x": 1})
    with pytest.raises(TypeError):
        write_object(tmp_path / "a", {"x": object()})
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert read_object(tmp_path / "b") == {}
