"""Failed writes at any moment: a batch never succeeds with wrong bytes, and the same command resumes it.

`BATCH_WRITES=200` tests the first two hundred writes, each with three kinds of failure.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batching import batch, command, read_lines, write_lines
from tests.support.fake_server import FakeServer, fake_server

WRITES = int(os.environ.get("BATCH_WRITES", "0"))
RECORDS = 90 if WRITES else 40
WAYS = ("error", "short", "fsync")
ALL = [(at, how) for at in range(1, WRITES + 1) for how in WAYS]
TABLE = ALL or [(1, "error"), (2, "short"), (3, "error"), (8, "short"), (21, "error"), (81, "short")]
ENOSPC, EIO = 28, 5
# Makes writes from the LD_FAULT_AT-th on, or every fsync, fail for files whose names contain LD_FAULT_IN.
LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int writes;
static int is_ours(int descriptor) {
    char link[64], name[4096];
    const char *part = getenv("LD_FAULT_IN");
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = part ? readlink(link, name, sizeof name - 1) : -1;
    if (size < 0) return 0;
    name[size] = 0;
    return strstr(name, part) != NULL;
}
ssize_t write(int descriptor, const void *data, size_t size) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    const char *how = getenv("LD_FAULT_HOW");
    if (how && strcmp(how, "fsync") && is_ours(descriptor) && ++writes >= atoi(getenv("LD_FAULT_AT"))) {
        if (!strcmp(how, "short") && writes == atoi(getenv("LD_FAULT_AT"))) return real(descriptor, data, size / 2);
        errno = atoi(getenv("LD_FAULT_ERRNO"));
        return -1;
    }
    return real(descriptor, data, size);
}
int fsync(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    const char *how = getenv("LD_FAULT_HOW");
    if (how && !strcmp(how, "fsync") && is_ours(descriptor)) {
        errno = atoi(getenv("LD_FAULT_ERRNO"));
        return -1;
    }
    return real(descriptor);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or not Path("/proc/self/fd").is_dir():
        pytest.skip("it takes a C compiler and Linux")
    folder = tmp_path_factory.mktemp("library")
    (folder / "faults.c").write_text(LIBRARY)
    path = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", folder / "faults.c", "-o", path, "-ldl"], check=True)
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records that are answered out of order, one of which fails."""
    slow = [
        "[400]" if number == 5 else f"{number} [500 ok]" if number % 9 == 4 else str(number)
        for number in range(RECORDS)
    ]
    records = [{"id": f"r{number}", "prompt": prompt} for number, prompt in enumerate(slow)]
    return write_lines(tmp_path_factory.mktemp("in") / "in.jsonl", records)


@pytest.fixture(scope="module")
def clean(source: Path, server: FakeServer) -> bytes:
    path = source.with_name("clean.jsonl")
    done = batch(source, "-o", path, "--endpoint", server.url, "-np", 4, "-q")
    assert done.returncode == 3, done.stderr.decode()
    return path.read_bytes()


@pytest.mark.parametrize(("at", "how"), TABLE)
def test_failed_write_is_reported_and_the_batch_resumes(
    source: Path, clean: bytes, server: FakeServer, library: Path, tmp_path: Path, at: int, how: str
) -> None:
    server.attempts.clear()
    output = tmp_path / "out.jsonl"
    faults = {"LD_PRELOAD": str(library), "LD_FAULT_IN": f"{tmp_path}/", "LD_FAULT_AT": str(at), "LD_FAULT_HOW": how}
    arguments = (source, "-o", output, "--endpoint", server.url, "-np", 4, "-q")
    done = batch(*arguments, **faults, LD_FAULT_ERRNO=str(ENOSPC if at % 2 else EIO))
    if done.returncode == 3:  # the run had fewer writes than `at`
        assert output.read_bytes() == clean
        assert at > 2 * RECORDS
    else:
        assert done.returncode == 74, done.stderr.decode()
        first, *hint = done.stderr.decode().splitlines()
        assert first.startswith(f"qwenctl: error: {tmp_path}/")
        assert hint == ["  hint: then the same command resumes"] or at <= 2  # no record has been answered yet
        assert clean.startswith(output.read_bytes() if output.exists() else b"")
    server.attempts.clear()
    assert batch(*arguments).returncode == 3
    assert output.read_bytes() == clean


def test_failed_fsync_is_an_error_and_the_batch_resumes(
    source: Path, clean: bytes, server: FakeServer, library: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    arguments = (source, "-o", output, "--endpoint", server.url, "-np", 4, "-q")
    faults = {
        "LD_PRELOAD": str(library),
        "LD_FAULT_IN": "out.jsonl",
        "LD_FAULT_HOW": "fsync",
        "LD_FAULT_ERRNO": str(EIO),
    }
    assert batch(*arguments, **faults).returncode == 74
    server.attempts.clear()
    assert batch(*arguments).returncode == 3
    assert output.read_bytes() == clean


@pytest.mark.parametrize("size", [1000, 3000])
def test_file_size_limit_is_reported_and_the_batch_resumes(
    source: Path, clean: bytes, server: FakeServer, tmp_path: Path, size: int
) -> None:
    output = tmp_path / "out.jsonl"
    server.attempts.clear()
    arguments = (source, "-o", output, "--endpoint", server.url, "-np", 4, "-q")
    done = subprocess.run(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)),
    )
    assert done.returncode == 74, done.stderr.decode()
    assert "file too large" in done.stderr.decode()
    assert clean.startswith(output.read_bytes())
    server.attempts.clear()
    assert batch(*arguments).returncode == 3
    assert output.read_bytes() == clean


def test_full_device_is_reported(source: Path, server: FakeServer) -> None:
    done = batch(source, "-o", "/dev/full", "--endpoint", server.url, "-q")
    assert done.returncode == 74
    assert b"no space left on device" in done.stderr


def test_closed_pipe_ends_the_batch_silently(source: Path, server: FakeServer) -> None:
    arguments = command(source, "--endpoint", server.url, "-q")
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr is not None
    with process.stderr:
        assert b"error" not in process.stderr.read()


def test_unwritable_output_is_refused_before_any_request(source: Path, server: FakeServer, tmp_path: Path) -> None:
    asked = len(server.bodies)
    done = batch(source, "-o", tmp_path / "no" / "out.jsonl", "--endpoint", server.url)
    assert (done.returncode, (tmp_path / "no").exists()) == (73, False)
    done = batch(source, "-o", source, "--endpoint", server.url)
    assert (done.returncode, b"is the input" in done.stderr) == (2, True)
    assert len(server.bodies) == asked
    assert read_lines(source)[0]["id"] == "r0"
