"""A stopped or killed conversion resumes to the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quantize.convert import ConversionProgress, ConversionResult, convert
from quantize.errors import BadCheckpoint, CannotWrite, Interrupted
from quantize.plan import ConversionPlan, QuantizeOptions, make_plan
from tests.support import checkpoints
from tests.support.command_line import run
from tests.support.gguf_files import converted
from tests.support.paths import DATA
from tests.support.qwen35_layout import Model

TOY = DATA / "toy"
KILLS = 50


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def interrupt_at(share: float) -> Callable[[ConversionProgress], None]:
    """A progress callback that raises KeyboardInterrupt when this share of the bytes is written."""

    def report(progress: ConversionProgress) -> None:
        if progress.done_bytes >= share * progress.total_bytes:
            raise KeyboardInterrupt

    return report


def interrupt(plan: ConversionPlan, share: float) -> str:
    """Stop a conversion at this share of its bytes; returns the error message."""
    with pytest.raises(Interrupted) as stopped:
        convert(plan, 1, interrupt_at(share))
    return stopped.value.message


@pytest.fixture
def plan(tmp_path: Path) -> ConversionPlan:
    return make_plan(TOY, tmp_path / "toy.gguf", QuantizeOptions("IQ4_NL", vision_type="F16"))


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The hashes of both files of an uninterrupted conversion."""
    folder = tmp_path_factory.mktemp("clean")
    return [hash_of(file.path) for file in converted(TOY, folder / "toy.gguf", "IQ4_NL", vision_type="F16").files]


def finish(plan: ConversionPlan, clean: list[str]) -> ConversionResult:
    result = convert(plan, 2)
    assert [hash_of(path) for path in result.paths] == clean
    assert {path.name for path in result.paths[0].parent.iterdir()} == {path.name for path in result.paths}
    return result


def test_stopped_conversion_resumes(plan: ConversionPlan, clean: list[str]) -> None:
    assert " are saved in " in interrupt(plan, 0.5)
    assert not plan.files[0].path.exists()
    result = finish(plan, clean)
    assert 0.2 * plan.n_bytes < result.resumed_bytes < 0.8 * plan.n_bytes


def test_resumed_progress_starts_at_the_saved_bytes_and_never_decreases(plan: ConversionPlan) -> None:
    interrupt(plan, 0.5)
    seen: list[ConversionProgress] = []
    convert(plan, 2, seen.append)
    assert seen[0].done_bytes >= seen[0].resumed_bytes > 0
    assert [one.done_bytes for one in seen] == sorted(one.done_bytes for one in seen)
    assert seen[-1].done_bytes == seen[-1].total_bytes


def test_conversion_without_finished_tensors_leaves_no_files(tmp_path: Path) -> None:
    model = Model(vocabulary=16_384, experts=0, width=256, vision=None)  # the first tensor takes four chunks
    source = checkpoints.make(tmp_path / "source", model)
    plan = make_plan(source, tmp_path / "out.gguf", QuantizeOptions("Q8_0"))
    assert interrupt(plan, 0.0) == "stopped; nothing was finished yet"
    assert list(tmp_path.iterdir()) == [source]


def test_overwritten_output_stays_until_the_new_file_is_complete(plan: ConversionPlan, clean: list[str]) -> None:
    output = plan.files[0].path
    output.write_text("precious")
    with pytest.raises(Interrupted):
        convert(plan, 1, interrupt_at(0.5), overwrite=True)
    assert output.read_text() == "precious"
    convert(plan, 2, overwrite=True)
    assert hash_of(output) == clean[0]


def test_incomplete_journal_line_is_ignored(plan: ConversionPlan, clean: list[str], tmp_path: Path) -> None:
    interrupt(plan, 0.3)
    with (tmp_path / "toy.gguf.journal").open("a") as journal:
        journal.write("0 7")
    finish(plan, clean)


def test_partial_file_of_another_length_is_not_reused(plan: ConversionPlan, clean: list[str], tmp_path: Path) -> None:
    interrupt(plan, 0.5)
    with (tmp_path / "toy.gguf.part").open("r+b") as part:
        part.truncate(1000)
    assert finish(plan, clean).resumed_bytes == 0


def test_conversion_killed_between_renames_only_finishes_them(
    plan: ConversionPlan, clean: list[str], tmp_path: Path
) -> None:
    interrupt(plan, 0.5)
    notes = (tmp_path / "toy.gguf.journal").read_text()
    finish(plan, clean)
    plan.files[1].path.rename(tmp_path / "toy.gguf.1.part")
    (tmp_path / "toy.gguf.journal").write_text(f"{notes}whole\n")
    assert finish(plan, clean).resumed_bytes == sum(one.n_bytes for file in plan.files for one in file.tensors)


def test_partial_output_of_another_plan_is_discarded_only_on_request(plan: ConversionPlan, tmp_path: Path) -> None:
    interrupt(plan, 0.5)
    other = make_plan(TOY, tmp_path / "toy.gguf", QuantizeOptions("Q8_0", vision=False))
    before = (tmp_path / "toy.gguf.journal").read_bytes()
    with pytest.raises(CannotWrite, match="is an unfinished output of other options"):
        convert(other, 1)
    assert (tmp_path / "toy.gguf.journal").read_bytes() == before
    assert convert(other, 1, overwrite=True).resumed_bytes == 0


def test_changed_input_is_not_resumed(tmp_path: Path) -> None:
    source = tmp_path / "toy"
    source.mkdir()
    for path in TOY.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    interrupt(make_plan(source, tmp_path / "toy.gguf", QuantizeOptions("IQ4_NL")), 0.5)
    (source / "model.safetensors").touch()
    with pytest.raises(CannotWrite, match="another input"):
        convert(make_plan(source, tmp_path / "toy.gguf", QuantizeOptions("IQ4_NL")), 1)


@pytest.mark.parametrize("change", ["bytes", "end", "another file"])
def test_input_changed_while_it_is_converted_gives_no_output(change: str, tmp_path: Path) -> None:
    """What was read before and after the change are parts of two models."""
    source = checkpoints.make(tmp_path / "source", Model(experts=0, width=64, hidden=64, vision=None))
    shard, plan = source / "model.safetensors", make_plan(source, tmp_path / "out.gguf", QuantizeOptions("Q8_0"))

    def change_it(_: ConversionProgress) -> None:
        with shard.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            if change == "bytes":
                file.write(b"abcd")
            elif change == "end":
                file.truncate()

    if change == "another file":
        shutil.copy(shard, tmp_path / "copy")
        (tmp_path / "copy").rename(shard)
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors (was changed|shrank) while"):
        convert(plan, 1, change_it)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# ------------------------------------------------------------------ kill -9


def command(output: Path) -> list[str]:
    flags = ["--type", "IQ4_XS", "--no-mtp", "-t", "1", "--json", "-q"]
    return [sys.executable, "-m", "qwenctl", "quantize", str(TOY), "-o", str(output), *flags]


def start_conversion(output: Path) -> subprocess.Popen[bytes]:
    """A running conversion that has started to write."""
    process = subprocess.Popen(command(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not output.with_name(f"{output.name}.part").exists() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)
    return process


def kill_and_resume(folder: Path, wait: float) -> tuple[bool, int, list[str]]:
    """Kill a conversion after `wait` seconds and run it again.

    Returns whether it had a journal when killed, the bytes that were resumed, and the hashes of the final files.
    """
    folder.mkdir()
    output = folder / "toy.gguf"
    process = start_conversion(output)
    time.sleep(wait)
    process.kill()
    process.wait()
    at_work = (folder / "toy.gguf.journal").exists()
    early = [hash_of(path) for path in sorted(folder.glob("*.gguf"))]
    done = run(*command(output)[3:], *([] if at_work else ["--overwrite"]))
    assert done.returncode == 0, done.stderr
    final = [hash_of(path) for path in sorted(folder.iterdir())]
    assert set(early) <= set(final)
    return at_work, json.loads(done.stdout)["resumed_bytes"], final


@pytest.mark.slow
def test_conversion_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    source = {path.name: hash_of(path) for path in TOY.iterdir()}
    (tmp_path / "clean").mkdir()
    process, start = start_conversion(tmp_path / "clean" / "toy.gguf"), time.monotonic()
    assert process.wait() == 0
    took = time.monotonic() - start
    clean = [hash_of(path) for path in sorted((tmp_path / "clean").iterdir())]
    assert len(clean) == 3  # with the lock file
    waits = [random.Random(seed).uniform(0, 1.1 * took) for seed in range(KILLS)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(kill_and_resume, (tmp_path / str(seed) for seed in range(KILLS)), waits))
    assert [final for _, _, final in found] == [clean] * KILLS
    assert sum(at_work for at_work, _, _ in found) > KILLS // 2
    assert sum(resumed > 0 for _, resumed, _ in found) > KILLS // 5
    assert {path.name: hash_of(path) for path in TOY.iterdir()} == source
