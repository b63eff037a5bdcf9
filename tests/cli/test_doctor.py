"""`qwenctl doctor`: its findings, the hint of each, its report and its exit code."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qwenctl import __version__
from qwenctl.doctor import findings
from qwenctl.doctor.findings import Cache, Finding, detect_gpu_backends, is_built_for
from qwenctl.hub.select.fit import Fit, PullCandidate
from qwenctl.machine.devices import Build, GgmlDevice
from qwenctl.machine.disks import Disk, ReadSpeed
from qwenctl.machine.llama_build import WITHOUT_AMX, build_command
from qwenctl.machine.memory import Memory, Swap
from tests.support.cli_runner import outcome
from tests.support.command_line import run
from tests.support.paths import ROOT

GB = 10**9
INSTALL = (ROOT / "docs/install.md").read_text()
CARD = GgmlDevice("CUDA0", "RTX", "gpu", 24 * GB, 23 * GB, "CUDA")
FAR = GgmlDevice("RPC0", "10.0.0.2:50052", "gpu", 24 * GB, 23 * GB, "RPC")
CPU_BUILD, CUDA_BUILD = Build(("CPU", "RPC")), Build(("CUDA", "CPU"), devices=(CARD,))


def disk(*, networked: bool = False, rotational: bool | None = None) -> Disk:
    return Disk(Path("/m"), "nfs4" if networked else "ext4", 900 * GB, 90 * GB, networked, rotational)


# ------------------------------------------------------------------ GPUs and builds


def test_gpus_are_detected_by_their_device_nodes(tmp_path: Path) -> None:
    assert {key: mark for key, mark in detect_gpu_backends(tmp_path).items() if key != "MTL"} == {}
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    (tmp_path / "dev" / "nvidiactl").touch()
    (tmp_path / "dev" / "kfd").touch()
    seen = detect_gpu_backends(tmp_path)
    assert (seen["CUDA"], seen["ROCm"]) == ("/dev/nvidia0", "/dev/kfd")


@pytest.mark.parametrize(
    ("build", "seen", "message"),
    [
        (CPU_BUILD, {}, None),
        (CUDA_BUILD, {"CUDA": "/dev/nvidia0"}, None),
        (CUDA_BUILD, {"ROCm": "/dev/kfd", "CUDA": "/dev/nvidia0"}, None),
        (Build(("Vulkan", "CPU"), devices=(CARD,)), {"ROCm": "/dev/kfd"}, None),
        (CPU_BUILD, {"CUDA": "/dev/nvidia0"}, "built without CUDA, but there is a GPU (/dev/nvidia0)"),
        (Build(("CPU", "RPC"), devices=(FAR,)), {"ROCm": "/dev/kfd"}, "built without ROCm"),
        (Build(("CUDA", "RPC"), devices=(FAR,)), {"CUDA": "/dev/nvidia0"}, "built for CUDA, but finds no GPU"),
        (Build(error="exit code -6"), {"CUDA": "/dev/nvidia0"}, "llama.cpp does not run: exit code -6"),
    ],
)
def test_build_that_leaves_a_gpu_unused_is_reported(build: Build, seen: dict[str, str], message: str | None) -> None:
    found = list(findings.check_build(build, seen))
    assert len(found) == (message is not None)
    assert all(message in finding.message and finding.hint for finding in found if message)


def test_finding_names_the_gpus() -> None:
    (found,) = findings.check_build(CPU_BUILD, {"CUDA": "/dev/nvidia0"}, ("RTX 5080", "RTX 3090"))
    assert "there is a GPU (RTX 5080, RTX 3090)" in found.message
    assert found.hint == build_command("CUDA")


@pytest.mark.parametrize(
    ("backend", "machine"),
    [("CUDA", "x86_64"), ("ROCm", "x86_64"), ("MTL", "arm64"), ("Vulkan", "x86_64"), ("CPU", "x86_64")],
)
def test_build_command_is_in_the_install_guide(backend: str, machine: str) -> None:
    assert f"`{build_command(backend, machine)}`" in INSTALL
    assert is_built_for(backend, (backend,))


def test_build_command_disables_amx_only_on_x86() -> None:
    assert build_command("CPU", "AMD64").startswith(f"CFLAGS={WITHOUT_AMX} CXXFLAGS={WITHOUT_AMX} CMAKE_ARGS=")
    assert build_command("CPU", "aarch64").startswith("CMAKE_ARGS=")
    unused = findings.check_features(frozenset({"amx_int8", "amx_tile", "avx2"}), frozenset({"AVX2"}))
    assert list(unused) == []  # AMX is disabled on purpose


def test_unused_instruction_sets_are_reported() -> None:
    flags = frozenset({"avx", "avx2", "avx512f", "sse2"})
    (found,) = findings.check_features(flags, frozenset({"AVX", "SSE3"}))
    assert found.message == "llama.cpp is built without AVX2, AVX512, which this processor has"
    assert list(findings.check_features(flags, frozenset({"AVX", "AVX2", "AVX512"}))) == []
    assert list(findings.check_features(flags, frozenset())) == []  # features unknown, which another finding reports


# ------------------------------------------------------------------ memory, disks, caches


def test_model_larger_than_memory_is_reported() -> None:
    small = Fit(PullCandidate("Q8_0", 9 * GB, 0), "RAM", 10 * GB)
    large = Fit(PullCandidate("BF16", 70 * GB, 0), "would page from disk", 72 * GB)
    (found,) = findings.check_models({"x/y:Q8_0": small, "x/y:BF16": large}, Memory(32 * GB, 30 * GB), 24 * GB)
    need = (
        "x/y:BF16 needs 67.1 GiB, this machine has 22.4 GiB of GPU memory and 29.8 GiB of RAM: it would page from disk"
    )
    assert found == Finding("memory", need, "`qwenctl ls x/y` lists smaller ones")


def test_swap_is_reported_only_when_used() -> None:
    assert list(findings.check_swap(Swap(8 * GB, 1 << 20))) == []
    (found,) = findings.check_swap(Swap(8 * GB, 2 * GB))
    assert found.message.startswith("1.86 GiB of swap is in use")


@pytest.mark.parametrize(
    ("holder", "speed", "message"),
    [
        (disk(), None, None),
        (disk(rotational=False), ReadSpeed(2e9, GB, True), None),
        (disk(networked=True), None, "models are on a network file system (nfs4 at /m)"),
        (disk(rotational=True), None, "models are on a hard disk (/m)"),
        (disk(), ReadSpeed(100e6, GB, True), "/m reads 100 MB/s: 20.0 GB take 200 s to read"),
    ],
)
def test_slow_disk_is_reported(holder: Disk, speed: ReadSpeed | None, message: str | None) -> None:
    found = [finding.message for finding in findings.check_disk(holder, speed, 20 * GB)]
    assert found == ([message] if message else [])


def test_cache_problems_are_reported() -> None:
    root = Path("/c")
    assert list(findings.check_cache(Cache(root, 90 * GB, 0, 0))) == []
    found = [finding.message for finding in findings.check_cache(Cache(root, GB, 2, 3 * GB, "read-only file system"))]
    assert found == [
        "/c cannot be written (read-only file system)",
        "stopped downloads left 3.00 GB in /c",
        "1.00 GB free where models are stored (/c)",
    ]


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def folder(toy_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model cache with the toy model, and a cache folder for measured bandwidths."""
    root = tmp_path_factory.mktemp("doctor")
    snapshot = root / "hf" / "hub" / "models--Qwen--Toy-GGUF" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / toy_gguf.name).symlink_to(toy_gguf)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HOME", str(root / "hf"))
        environment.delenv("HF_HUB_CACHE", raising=False)
        environment.setenv("XDG_CACHE_HOME", str(root / "cache"))
        environment.setenv("XDG_STATE_HOME", str(root / "state"))  # no models that other tests have registered
        yield root


def test_doctor_json_describes_the_machine_and_findings_set_the_exit_code(folder: Path) -> None:
    done = run("doctor", "--json", "--disk")
    report = json.loads(done.stdout)
    assert done.returncode == (1 if report["findings"] else 0)
    assert all(finding["hint"] and finding["topic"] for finding in report["findings"])
    assert report["cpu"]["physical_cores"] == psutil.cpu_count(logical=False)
    assert report["ram"]["bandwidth"] > 1e8
    assert report["versions"]["qwenctl"] == __version__
    assert list(report["models"]) == ["Qwen/Toy-GGUF:Q8_0"]
    (holder,) = [entry for entry in report["disks"] if entry["model_bytes"]]
    assert holder["read_speed"]["n_bytes"] == report["models"]["Qwen/Toy-GGUF:Q8_0"] == holder["model_bytes"]


def test_doctor_prints_a_table_and_findings_with_hints(folder: Path) -> None:
    blob = folder / "hf" / "hub" / "models--Qwen--Toy-GGUF" / "blobs" / "abc.part"
    blob.parent.mkdir()
    blob.write_bytes(b"x" * 100_000)
    done = run("doctor")
    blob.unlink()
    text = done.stdout.decode()
    assert done.returncode == 1
    assert re.search(r"^CPU +\S.* cores for this process, \d+ free now", text, re.MULTILINE)
    assert re.search(r"^RAM +\S.* read at \S+ [MG]B/s by \d+ thread", text, re.MULTILINE)
    assert re.search(r"^models +1, ", text, re.MULTILINE)
    assert re.search(r"\n! stopped downloads left 1\d\d kB in \S+\n  hint: .*`qwenctl clean`", text)


def test_cache_that_is_a_file_is_reported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = json.loads(run("doctor", "--json", HF_HOME=str(tmp_path), HF_HUB_CACHE=str(tmp_path / "file")).stdout)
    assert [finding["message"] for finding in report["findings"] if "cannot be written" in finding["message"]] == [
        f"{tmp_path / 'file'} cannot be written (not a folder)"
    ]


def test_unreachable_rpc_server_is_an_error(folder: Path) -> None:
    message, hint, code = outcome("doctor", "--rpc", "127.0.0.1:1")
    assert (code, "127.0.0.1:1" in message, "qwenctl worker" in hint) == (69, True, True)
    assert os.environ["HF_HOME"] == str(folder / "hf")
