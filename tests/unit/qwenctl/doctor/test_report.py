"""An examination as rows and as JSON: the same figures, in words and in numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from qwenctl.backend_check.results import EXTRA, PLAIN, BackendCheck, CaseResult, SubjectResult
from qwenctl.doctor.checks import DoctorReport, ModelDisk
from qwenctl.doctor.findings import Cache, Finding
from qwenctl.doctor.report import backend_check_rows, report_rows, to_json
from qwenctl.machine.disks import Disk, ReadSpeed
from qwenctl.machine.memory import Swap
from tests.support.example_machine import EXAMPLE_MACHINE, GIB

CHECK = BackendCheck(
    SubjectResult(PLAIN, (CaseResult("prompt", 2e-4), CaseResult("answer"))),
    SubjectResult(EXTRA, (CaseResult("prompt", 0.5),), ("AMX",)),
)
DISK = Disk(Path("/data"), "ext4", 100 * 10**9, 50 * 10**9, is_networked=False, is_rotational=True)
REPORT = DoctorReport(
    EXAMPLE_MACHINE,
    Swap(8 * GIB, 0),
    (ModelDisk(DISK, 20 * 10**9, ReadSpeed(2e9, 1, past_cache=True)),),
    (Cache(Path("/cache"), 10**12, 0, 0),),
    {"owner/a:Q4_K_M": 20 * 10**9},
    {"qwenctl": "1.0", "Python": "3.11"},
    CHECK,
    (Finding("disk", "slow", "faster"),),
)


def test_rows_tell_cpu_memory_devices_disks_and_versions() -> None:
    assert list(report_rows(REPORT)) == [
        ("CPU", "Some CPU: 12 of 16 cores for this process, 8 free now"),
        ("RAM", "64.0 GiB, 48.0 GiB available; read at 60.0 GB/s by 8 threads"),
        ("swap", "0 B of 8.00 GiB used"),
        ("llama.cpp", "CPU, CUDA (AVX2 FMA)"),
        ("CUDA0", "Some GPU: 24.0 GiB, 23.0 GiB free; read at 900 GB/s; copied to at 25.0 GB/s"),
        ("Vulkan0", "Graphics of the processor: 64.0 GiB, 48.0 GiB free"),
        ("disk", "/data (ext4, hard disk): 50.0 GB of 100 GB free, 20.0 GB of models; read at 2.00 GB/s"),
        ("models", "1, 20.0 GB"),
        ("versions", "qwenctl 1.0, Python 3.11"),
    ]


def test_rows_tell_what_is_not_there() -> None:
    machine = replace(EXAMPLE_MACHINE, build=replace(EXAMPLE_MACHINE.build, backends=(), devices=()), threads=1)
    found = dict(report_rows(replace(REPORT, machine=machine, swap=Swap(0, 0), disks=(), models={})))
    assert (found["swap"], found["models"]) == ("none", "none")
    assert found["llama.cpp"].startswith("does not run")
    assert found["RAM"] == "64.0 GiB, 48.0 GiB available"


def test_check_has_a_row_for_each_case_and_a_column_for_each_subject() -> None:
    assert list(backend_check_rows(CHECK)) == [
        ("check of llama.cpp: error (allowed: 0.02)", "CPU", "extra buffer types (AMX)"),
        ("  prompt", "2e-04", "FAILED (0.5)"),
        ("  answer", "0", ""),
    ]


def test_json_has_numbers_and_can_be_written() -> None:
    fields = json.loads(json.dumps(to_json(REPORT)))
    assert fields["cpu"]["flags"] == ["avx2", "fma"]
    assert (fields["ram"]["total_bytes"], fields["ram"]["bandwidth"]) == (64 * GIB, 60e9)
    assert [(device["name"], device["bandwidth"]) for device in fields["devices"]] == [
        ("CUDA0", 900e9), ("Vulkan0", None),
    ]  # fmt: skip
    [disk] = fields["disks"]
    assert (disk["mount"], disk["model_bytes"], disk["read_speed"]["bytes_per_second"]) == ("/data", 20 * 10**9, 2e9)
    assert fields["caches"][0]["root"] == "/cache"
    assert fields["findings"] == [{"topic": "disk", "message": "slow", "hint": "faster"}]


def test_json_without_a_check_has_null() -> None:
    assert to_json(replace(REPORT, check=None))["check"] is None
