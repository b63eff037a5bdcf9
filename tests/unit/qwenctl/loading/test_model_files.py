"""The files that a model's name means, and what a plan must leave room for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.errors import QwenctlError
from qwenctl.loading.batch_engine import max_parallel
from qwenctl.loading.checked_backend import without_devices
from qwenctl.loading.model_files import reserve_mmproj, resolve_model, vision_settings
from qwenctl.machine.profile import Device, Machine
from qwenctl.placement.constraints import LoadRequest
from qwenctl.protocol.media import VisionSettings


def test_no_model_is_refused_with_the_command_that_downloads_one() -> None:
    with pytest.raises(QwenctlError, match="no model: -m takes a GGUF file") as caught:
        resolve_model(None)
    assert "qwenctl pull" in caught.value.hint


def test_model_file_is_resolved_and_another_file_is_refused(toy_gguf: Path, tmp_path: Path) -> None:
    assert resolve_model(toy_gguf) == toy_gguf
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(QwenctlError):
        resolve_model(tmp_path / "x.gguf")


def test_tower_beside_the_model_is_found_and_a_model_without_one_is_blind(seeing_gguf: Path, toy_gguf: Path) -> None:
    found = vision_settings(seeing_gguf, None, VisionSettings(video_fps=3.0))
    assert Path(found.mmproj).parent == seeing_gguf.parent.absolute()
    assert found.video_fps == 3.0
    assert vision_settings(toy_gguf, None, VisionSettings()).mmproj == ""
    assert vision_settings(toy_gguf, Path(found.mmproj), VisionSettings()).mmproj == found.mmproj


def test_room_for_the_tower_is_its_size(tmp_path: Path) -> None:
    (tmp_path / "mmproj.gguf").write_bytes(bytes(1234))
    assert reserve_mmproj(LoadRequest(), str(tmp_path / "mmproj.gguf")).constraints.vision_bytes == 1234
    assert reserve_mmproj(LoadRequest(), "") == LoadRequest()


def test_devices_that_fail_are_left_out_of_the_machine() -> None:
    devices = tuple(Device(name, "CUDA", "", 1, 1) for name in ("CUDA0", "CUDA1"))
    machine = Machine(1, 1, devices=devices)
    assert without_devices(machine, {"CUDA0"}) == replace(machine, devices=devices[1:])


@pytest.mark.parametrize(("records", "most"), [(None, 64), (3, 3), (1000, 64)])
def test_small_model_answers_as_many_records_as_there_are_up_to_a_limit(
    records: int | None, most: int, toy_gguf: Path
) -> None:
    assert max_parallel(toy_gguf, 256, records) == most


def test_records_with_an_enormous_context_are_answered_one_by_one(toy_gguf: Path) -> None:
    assert max_parallel(toy_gguf, 1 << 50, None) == 1
