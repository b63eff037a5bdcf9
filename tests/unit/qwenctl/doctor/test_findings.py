"""Each judgment of the doctor: what it finds wrong, what it lets pass, and what it says to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.backend_check.results import PLAIN, BackendCheck, CaseResult, Subject, SubjectResult
from qwenctl.doctor import findings
from qwenctl.doctor.findings import Cache, Finding
from qwenctl.hub.select.fit import Fit, PullCandidate
from qwenctl.machine.devices import Build
from qwenctl.machine.disks import Disk, ReadSpeed
from qwenctl.machine.memory import Memory, Swap
from tests.support.example_machine import CPU_DEVICE, EXAMPLE_MACHINE, GIB, GPU_DEVICE

CUDA_SEEN = {"CUDA": "/dev/nvidia0"}
GOOD = BackendCheck(SubjectResult(PLAIN, (CaseResult("prompt"),)))
DISK = Disk(Path("/data"), "ext4", 100 * GIB, 50 * GIB, is_networked=False, is_rotational=False)


def messages(found: Iterable[Finding]) -> list[str]:
    found = list(found)
    assert all(one.hint for one in found)
    return [one.message for one in found]


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        ((), {}),
        (("dev/nvidia1", "dev/nvidia0", "dev/nvidiactl"), {"CUDA": "/dev/nvidia0"}),
        (("proc/driver/nvidia/gpus/0000:01",), {"CUDA": "/proc/driver/nvidia/gpus/0000:01"}),
        (("dev/kfd",), {"ROCm": "/dev/kfd"}),
    ],
)
def test_gpu_is_seen_by_the_files_of_its_driver(
    files: tuple[str, ...], seen: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert findings.detect_gpu_backends(tmp_path) == seen


@pytest.mark.parametrize(
    ("backend", "built", "fits"),
    [
        ("CUDA", ("CPU", "CUDA"), True),
        ("CUDA", ("CPU",), False),
        ("CUDA", ("CPU", "Vulkan"), True),
        ("ROCm", ("CPU", "HIP"), True),
        ("ROCm", ("CPU", "CUDA"), False),
        ("MTL", ("Metal",), True),
    ],
)
def test_build_fits_hardware_by_its_own_or_a_general_backend(backend: str, built: tuple[str, ...], fits: bool) -> None:
    assert findings.is_built_for(backend, built) is fits


def test_build_that_uses_the_gpu_or_sees_none_is_right() -> None:
    assert messages(findings.check_build(EXAMPLE_MACHINE.build, CUDA_SEEN)) == []
    assert messages(findings.check_build(Build(("CPU",), devices=(CPU_DEVICE,)), {})) == []


def test_build_without_the_backend_of_the_gpu_names_the_card_and_how_to_build() -> None:
    [found] = findings.check_build(Build(("CPU",), devices=(CPU_DEVICE,)), CUDA_SEEN, ["RTX 3090", "RTX 5090"])
    assert found.message == (
        "llama.cpp is built without CUDA, but there is a GPU (RTX 3090, RTX 5090): it would not be used"
    )
    assert "GGML_CUDA=ON" in found.hint


def test_build_that_finds_no_gpu_hints_at_the_tool_of_its_driver() -> None:
    remote = replace(GPU_DEVICE, backend="RPC")
    [found] = findings.check_build(Build(("CPU", "CUDA"), devices=(CPU_DEVICE, remote)), CUDA_SEEN)
    assert found.message == "llama.cpp is built for CUDA, but finds no GPU (/dev/nvidia0)"
    assert found.hint == "run `nvidia-smi` to see why"


def test_build_that_does_not_run_is_the_only_finding() -> None:
    assert messages(findings.check_build(Build(error="SIGILL"), CUDA_SEEN)) == ["llama.cpp does not run: SIGILL"]


def test_failed_subjects_of_the_check_are_findings() -> None:
    failed = SubjectResult(Subject("device", "CUDA0"), (CaseResult("prompt", 0.5), CaseResult("answer")))
    assert messages(findings.check_computation(GOOD)) == []
    [message] = messages(findings.check_computation(replace(GOOD, devices={"key": failed})))
    assert message == "CUDA0 fails (prompt: NMSE 0.5): only used where --device names it"


def test_instruction_sets_that_only_the_processor_has_are_named() -> None:
    flags = frozenset({"avx2", "avx512f", "fma"})
    assert messages(findings.check_features(flags, frozenset({"AVX2", "FMA", "AVX512"}))) == []
    [message] = messages(findings.check_features(flags, frozenset({"AVX2"})))
    assert message == "llama.cpp is built without FMA, AVX512, which this processor has"
    assert messages(findings.check_features(flags, frozenset())) == []  # the build did not run


def test_model_that_pages_from_disk_is_named_with_the_memory_that_is_there() -> None:
    fits = {
        "owner/a:Q8_0": Fit(PullCandidate("Q8_0", 1, 1), "would page from disk", 90 * GIB),
        "owner/b:Q2_K": Fit(PullCandidate("Q2_K", 1, 1), "GPU + RAM", 20 * GIB),
    }
    [found] = findings.check_models(fits, Memory(64 * GIB, GIB), 24 * GIB)
    assert found.message == (
        "owner/a:Q8_0 needs 90.0 GiB, this machine has 24.0 GiB of GPU memory and 64.0 GiB of RAM: "
        "it would page from disk"
    )
    assert found.hint == "`qwenctl ls owner/a` lists smaller ones"


@pytest.mark.parametrize(("used", "count"), [(0, 0), (64 << 20, 0), (65 << 20, 1)])
def test_swap_in_use_is_a_finding_above_a_few_pages(used: int, count: int) -> None:
    assert len(messages(findings.check_swap(Swap(8 * GIB, used)))) == count


def test_disk_that_is_networked_rotating_or_slow_is_a_finding() -> None:
    fast, slow = ReadSpeed(2e9, 1 << 30, past_cache=True), ReadSpeed(100e6, 1 << 30, past_cache=True)
    assert messages(findings.check_disk(DISK, fast, 20 * 10**9)) == []
    assert messages(findings.check_disk(DISK, None, 0)) == []
    [networked] = messages(findings.check_disk(replace(DISK, is_networked=True, is_rotational=True), None, 0))
    assert networked == "models are on a network file system (ext4 at /data)"
    [rotating] = messages(findings.check_disk(replace(DISK, is_rotational=True), None, 0))
    assert rotating == "models are on a hard disk (/data)"
    [reading] = messages(findings.check_disk(DISK, slow, 20 * 10**9))
    assert reading == "/data reads 100 MB/s: 20.0 GB take 200 s to read"


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        (Cache(Path("/c"), 100 * GIB, 0, 0), []),
        (Cache(Path("/c"), 100 * GIB, 0, 0, "no permission"), ["/c cannot be written (no permission)"]),
        (Cache(Path("/c"), 100 * GIB, 2, 5 * 10**9), ["stopped downloads left 5.00 GB in /c"]),
        (Cache(Path("/c"), 10**9, 0, 0), ["1.00 GB free where models are stored (/c)"]),
    ],
)
def test_cache_that_is_unwritable_littered_or_full_is_a_finding(cache: Cache, words: list[str]) -> None:
    assert messages(findings.check_cache(cache)) == words
