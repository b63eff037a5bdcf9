"""The output while it is written: new, resumed, complete, or refused before a byte is lost."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from quantize.errors import BadCheckpoint, BadOption, CannotWrite, NoSpace, QuantizeError
from quantize.file_system import file_sha256
from quantize.input_files import open_local_files
from quantize.output.partial_output import (
    check_paths,
    is_made,
    is_written,
    open_output,
    recorded_hashes,
    required_disk_space,
    translate_disk_errors,
)
from quantize.plan import ConversionPlan, QuantizeOptions, make_plan


@pytest.fixture
def plan(toy: Path, tmp_path: Path) -> ConversionPlan:
    return make_plan(toy, tmp_path / "out.gguf", QuantizeOptions("Q8_0", vision=False))


class Stopped(Exception):
    """Ends a conversion in the middle."""


def write_tensors(plan: ConversionPlan, count: int, *, stop: bool) -> list[tuple[int, int]]:
    """Write the first `count` tensors as zeros, then finish or stop; returns what an earlier run had finished."""
    with open_output(plan, overwrite=False) as output:
        for number, tensor in enumerate(plan.files[0].tensors[:count]):
            output.write(0, memoryview(bytes(tensor.n_bytes)), tensor.offset)
            output.commit([(0, number)])
        if stop:
            raise Stopped(output.describe_saved())
        output.finish()
        return sorted(output.finished)


def test_finished_output_has_header_and_length_and_nothing_else_is_left(plan: ConversionPlan, tmp_path: Path) -> None:
    [file] = plan.files
    assert write_tensors(plan, len(file.tensors), stop=False) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    assert file.path.stat().st_size == file.n_bytes
    assert file.path.read_bytes().startswith(file.header)


def test_stopped_output_is_resumed_after_the_tensors_it_has(plan: ConversionPlan, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"are saved in .*out\.gguf\.part"):
        write_tensors(plan, 3, stop=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf.journal", "out.gguf.part"]
    assert write_tensors(plan, len(plan.files[0].tensors), stop=False) == [(0, 0), (0, 1), (0, 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_output_stopped_before_its_first_tensor_leaves_nothing(plan: ConversionPlan, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="nothing was finished yet"):
        write_tensors(plan, 0, stop=True)
    assert list(tmp_path.iterdir()) == []


def test_unfinished_output_of_another_plan_is_not_discarded(plan: ConversionPlan, toy: Path) -> None:
    other = make_plan(toy, plan.files[0].path, QuantizeOptions("Q4_0", vision=False))
    with pytest.raises(Stopped):
        write_tensors(plan, 1, stop=True)
    with pytest.raises(CannotWrite, match="is an unfinished output of other options"):
        write_tensors(other, 1, stop=False)
    assert write_tensors(plan, 1, stop=False) == [(0, 0)]


def test_existing_output_is_replaced_only_if_asked(plan: ConversionPlan) -> None:
    plan.files[0].path.write_text("mine")
    with pytest.raises(CannotWrite, match="already exists"), open_output(plan, overwrite=False):
        pass
    assert plan.files[0].path.read_text() == "mine"
    with open_output(plan, overwrite=True) as output:
        assert plan.files[0].path.read_text() == "mine"  # until the new one is complete
        output.finish()
    assert plan.files[0].path.stat().st_size == plan.files[0].n_bytes


def test_output_that_is_an_input_a_folder_or_nowhere_is_refused(toy: Path, tmp_path: Path) -> None:
    options = QuantizeOptions("Q8_0", vision=False)
    (tmp_path / "link.gguf").symlink_to(toy / "model.safetensors")
    with pytest.raises(BadOption, match="would overwrite its own input"):
        check_paths(make_plan(toy, tmp_path / "link.gguf", options))
    with pytest.raises(CannotWrite, match="no such folder"):
        check_paths(make_plan(toy, tmp_path / "missing" / "out.gguf", options))
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(CannotWrite, match="is not a regular file"):
        check_paths(make_plan(toy, tmp_path / "pipe.gguf", options))


def test_disk_space_is_what_the_unfinished_output_does_not_have_yet(plan: ConversionPlan) -> None:
    before = required_disk_space(plan)
    assert before.needed == plan.n_bytes
    with pytest.raises(Stopped):
        write_tensors(plan, 5, stop=True)
    assert 0 <= required_disk_space(plan).needed < before.needed


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, NoSpace, "disk full while writing"),
        (errno.EDQUOT, NoSpace, "disk full while writing"),
        (errno.EFBIG, NoSpace, "would be larger than the file system"),
        (errno.EACCES, CannotWrite, "cannot write to /folder"),
        (errno.EROFS, CannotWrite, "cannot write to /folder"),
        (errno.ENAMETOOLONG, CannotWrite, "cannot write /folder/out: its name is too long"),
        (errno.EIO, QuantizeError, "cannot write /folder/out"),
    ],
)
def test_error_of_the_disk_becomes_one_with_a_hint(number: int, kind: type[QuantizeError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught, translate_disk_errors(Path("/folder/out")):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind


def test_local_input_files_are_open_inside_the_block_and_closed_after(plan: ConversionPlan) -> None:
    with open_local_files(plan) as inputs:
        assert set(inputs.files) == plan.source_files()
        descriptors = list(inputs.files.values())
        assert all(os.fstat(descriptor).st_size for descriptor in descriptors)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_output_is_made_if_it_has_the_plan_and_the_hashes(plan: ConversionPlan, tmp_path: Path) -> None:
    write_tensors(plan, len(plan.files[0].tensors), stop=False)
    checked: list[bool] = []
    hashes = [file_sha256(plan.files[0].path)]
    assert is_made(plan, hashes, lambda: checked.append(True))
    assert checked == [True]
    assert not is_made(plan, ["0" * 64])
    assert not is_made(plan, [])
    (tmp_path / "out.gguf.journal").touch()  # a run that is stopped or at work
    assert not is_made(plan, hashes)
    (tmp_path / "out.gguf.journal").unlink()
    with plan.files[0].path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert not is_made(plan, hashes)


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="the system has no extended attributes")
def test_hashes_are_recorded_with_the_file_from_the_moment_it_has_its_name(plan: ConversionPlan) -> None:
    recorded: list[tuple[str, ...]] = []
    with open_output(plan, overwrite=False) as output:
        output.commit((0, number) for number in range(len(plan.files[0].tensors)))
        output.finish(("hash",), lambda: recorded.append(recorded_hashes(plan)))
    assert [*recorded, recorded_hashes(plan)] == [("hash",), ("hash",)]
    assert recorded_hashes(replace(plan, fingerprint="other")) == ()
    plan.files[0].path.unlink()
    assert recorded_hashes(plan) == ()


def test_output_stopped_after_it_was_renamed_repeats_what_follows_and_needs_no_space(plan: ConversionPlan) -> None:
    def stop() -> None:
        raise Stopped

    with open_output(plan, overwrite=False) as output:
        output.commit((0, number) for number in range(len(plan.files[0].tensors)))
        with pytest.raises(Stopped):
            output.finish(("hash",), stop)
    assert is_written(plan)
    assert required_disk_space(plan).needed == 0
    followed: list[bool] = []
    with open_output(plan, overwrite=False) as output:
        assert (output.is_complete, output.known_hashes()) == (True, ("hash",))
        output.finish(output.known_hashes(), lambda: followed.append(True))
    assert followed == [True]
    assert not is_written(plan)


def test_unfinished_files_with_bad_weights_are_removed(plan: ConversionPlan, tmp_path: Path) -> None:
    def stop() -> None:
        with open_output(plan, overwrite=False) as output:
            output.commit([(0, 0)])
            raise BadCheckpoint("NaN")

    with pytest.raises(BadCheckpoint):
        stop()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_link", [False, True])
def test_file_of_somebody_else_with_a_temporary_name_is_refused_and_left_alone(
    plan: ConversionPlan, tmp_path: Path, is_link: bool
) -> None:
    part = tmp_path / "out.gguf.part"
    (tmp_path / "mine").write_text("GGUF, mine")
    part.symlink_to("mine") if is_link else (tmp_path / "mine").rename(part)
    before = {path.name for path in tmp_path.iterdir()}
    for overwrite in (False, True):
        with pytest.raises(CannotWrite, match=r"out\.gguf\.part"), open_output(plan, overwrite=overwrite):
            pass
    assert {path.name for path in tmp_path.iterdir()} == before
    assert part.read_text() == "GGUF, mine"


def test_own_unfinished_file_without_its_journal_is_started_over(plan: ConversionPlan, tmp_path: Path) -> None:
    (tmp_path / "out.gguf.part").write_bytes(plan.files[0].header + b"half")
    assert write_tensors(plan, len(plan.files[0].tensors), stop=False) == []
