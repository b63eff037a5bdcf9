"""`qwenctl quantize` stopped by signals, a second process or a full disk: its messages and the saved files."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quantize.output.partial_output import open_output
from quantize.plan import QuantizeOptions, make_plan
from tests.support.cli_runner import outcome
from tests.support.gguf_files import converted
from tests.support.paths import DATA

TOY = DATA / "toy"
RUN = [sys.executable, "-m", "qwenctl", "quantize", str(TOY), "--no-vision"]


def arguments(output: Path) -> list[str]:
    """The command line of a conversion that takes some seconds."""
    return [*RUN, "-o", str(output), "--type", "IQ3_S", "-t", "1", "-q"]


@contextmanager
def running_conversion(output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running conversion that has finished some tensors."""
    journal, end = output.with_name(f"{output.name}.journal"), time.monotonic() + 60
    with subprocess.Popen(arguments(output), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            while not journal.exists() or len(re.findall(r"^\d+ \d+ #", journal.read_text(), re.MULTILINE)) < 4:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clean") / "toy.gguf"
    converted(TOY, path, "IQ3_S", vision=False, tool_version=version())
    return path.read_bytes()


def version() -> str:
    return subprocess.run([*RUN[:3], "--version"], capture_output=True, text=True, check=True).stdout.split()[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_a_conversion_and_reports_the_saved_bytes(
    number: signal.Signals, code: int, clean: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "toy.gguf"
    with running_conversion(output) as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (code, b"")
    line, hint, _ = stderr.decode().split("\n")
    assert re.fullmatch(rf"qwenctl: error: stopped; \S+ [kM]B of 5\.\d+ MB are saved in {output}\.part", line)
    assert hint == "  hint: the same command resumes from there"
    assert not output.exists()
    done = subprocess.run([*arguments(output), "--json"], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["resumed_bytes"] > 0
    assert output.read_bytes() == clean


@pytest.mark.slow
def test_second_process_on_the_same_output_is_refused(clean: bytes, tmp_path: Path) -> None:
    output = tmp_path / "toy.gguf"
    with running_conversion(output) as first:
        line, hint, code = outcome(*arguments(output)[3:])
        assert line == f"another process (pid {first.pid}) is writing {output}"
        assert (hint, code) == ("wait, or choose another -o", 75)
        first.communicate(timeout=60)
        assert first.returncode == 0
    assert output.read_bytes() == clean


def test_two_outputs_in_one_folder_share_no_partial_file(toy: Path, tmp_path: Path) -> None:
    names = ["first.gguf", "second.gguf"]
    plans = [make_plan(toy, tmp_path / name, QuantizeOptions("Q8_0")) for name in names]
    with open_output(plans[0], overwrite=False), open_output(plans[1], overwrite=False):
        parts = sorted(path.name for path in tmp_path.glob("*.part"))
    assert parts == ["first.gguf.1.part", "first.gguf.part", "second.gguf.1.part", "second.gguf.part"]


def test_file_size_limit_is_reported(tmp_path: Path) -> None:
    output = tmp_path / "toy.gguf"
    command = f"ulimit -f 1000; exec {shlex.join([*RUN, '-o', str(output)])}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    line = f"{output} would be larger than the file system or `ulimit -f` allows"
    assert done.stderr.decode() == f"qwenctl: error: {line}\n  hint: --split-max-size 2G splits it into several files\n"
    assert done.returncode == 74
    assert list(tmp_path.iterdir()) == []


# A file system in a private mount namespace, large enough for the output; it is filled during the conversion.
FULL_DISK = """
set -e
mount -t tmpfs -o size=16m tmpfs "$1"; cd "$1"; shift
"$@" & pid=$!
until grep -qs '^[0-9]* [0-9]* #' toy.gguf.journal; do sleep 0.01; done
cat /dev/zero > filler 2>/dev/null || true
wait $pid && exit 1 || echo "code $?"
test ! -e toy.gguf
rm filler
"$@" --json
sha256sum < toy.gguf
ls
"""


def can_mount() -> bool:
    done = subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="this machine does not let a test mount a file system")
def test_full_disk_keeps_the_finished_tensors(clean: bytes, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    shell = ["unshare", "-Urm", "bash", "-c", FULL_DISK, "bash"]
    command = [*shell, str(tmp_path / "small"), *arguments(Path("toy.gguf"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    code, result, checksum, *files = done.stdout.splitlines()
    assert code == "code 74"
    assert re.fullmatch(
        r"qwenctl: error: disk full while writing toy\.gguf; \S+ [kM]B of 5\.\d+ MB are saved in toy\.gguf\.part\n"
        r"  hint: free up space and run the same command again\n",
        done.stderr,
    )
    assert json.loads(result)["resumed_bytes"] > 0
    assert checksum.split()[0] == hashlib.sha256(clean).hexdigest()
    assert files == ["qwenctl.lock.json", "toy.gguf"]
