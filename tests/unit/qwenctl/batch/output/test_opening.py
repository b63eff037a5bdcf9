"""The output of a batch is opened as asked: a file or a stream, locked, new, resumed or started over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenctl.batch.output.batch_journal import JournalEntry
from qwenctl.batch.output.opening import lock_output, open_output, resume_settings
from qwenctl.batch.output.writers import FileOutput, StreamOutput
from qwenctl.batch.records import GenerationParams
from qwenctl.batch.specs import InputSpec, OutputSpec
from qwenctl.errors import ExitCode, QwenctlError

SETTINGS = {"model": "m", "seed": 0}


def ignore(_: str) -> None:
    """Warnings of these tests are not looked at."""


def write_one(path: Path) -> None:
    """An output with one answer in it."""
    writer = open_output(OutputSpec(path), SETTINGS, ignore)
    writer.write_answer(0, JournalEntry("a", "hash", json.dumps({"id": "a"}), {}))
    writer.close(is_complete=False)


def test_locked_output_refuses_a_second_batch_until_the_first_ends(tmp_path: Path) -> None:
    spec = OutputSpec(tmp_path / "out.jsonl")
    with lock_output(spec, ignore):
        with pytest.raises(QwenctlError, match="is writing this output") as caught, lock_output(spec, ignore):
            pass
        assert caught.value.code == ExitCode.TRY_AGAIN
    with lock_output(spec, ignore):
        assert (tmp_path / "out.jsonl.lock").exists()
    assert not (tmp_path / "out.jsonl.lock").exists()


def test_output_in_missing_folder_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "out.jsonl"
    with pytest.raises(QwenctlError, match="no folder") as caught, lock_output(OutputSpec(path), ignore):
        pass
    assert (caught.value.code, caught.value.hint) == (ExitCode.CANNOT_CREATE, f"mkdir -p {path.parent}")


@pytest.mark.parametrize("path", ["-", "/dev/null"])
def test_standard_output_and_devices_are_streams_without_a_lock(path: str) -> None:
    with lock_output(OutputSpec(path), ignore):
        writer = open_output(OutputSpec(path), SETTINGS, ignore)
    assert isinstance(writer, StreamOutput)
    assert not Path(f"{path}.lock").exists()


def test_existing_output_is_resumed_and_keeps_its_answers(tmp_path: Path) -> None:
    write_one(tmp_path / "out.jsonl")
    writer = open_output(OutputSpec(tmp_path / "out.jsonl"), SETTINGS, ignore)
    assert isinstance(writer, FileOutput)
    assert writer.already_done(0, "a", "hash") is not None
    writer.close(is_complete=False)


def test_output_of_other_settings_is_refused_unless_forced(tmp_path: Path) -> None:
    spec, other = OutputSpec(tmp_path / "out.jsonl"), {**SETTINGS, "seed": 1}
    write_one(tmp_path / "out.jsonl")
    with pytest.raises(QwenctlError, match="seed"):
        open_output(spec, other, ignore)
    writer = open_output(replace(spec, resume="force"), other, ignore)
    assert writer.already_done(0, "a", "hash") is not None
    writer.close(is_complete=False)


def test_overwrite_starts_over_whatever_the_settings_were(tmp_path: Path) -> None:
    write_one(tmp_path / "out.jsonl")
    writer = open_output(OutputSpec(tmp_path / "out.jsonl", overwrite=True), {"model": "other"}, ignore)
    assert writer.already_done(0, "a", "hash") is None
    writer.close(is_complete=False)


# Each change of what is asked for, and the name under which it must be found different.
CHANGES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    ({"prompt": "{text}"}, {}, {}, "--prompt"),
    ({"prefix": "long"}, {}, {}, "--prefix"),
    ({"passthrough": ("label",)}, {}, {}, "--keep"),
    ({"seed": 7}, {}, {}, "seed"),
    ({}, {"style": "openai"}, {}, "--format"),
    ({}, {"order": "done"}, {}, "--order"),
    ({}, {"recorded_as": {"grammar": "file.gbnf"}}, {}, "grammar"),
    ({}, {}, {"think": False}, "think"),
    ({}, {}, {"max_tokens": 5}, "max-tokens"),
    ({}, {}, {"sampling": {"top_k": 3}}, "--top-k"),
]


@pytest.mark.parametrize(("source", "output", "params", "name"), CHANGES)
def test_setting_that_determines_answers_is_compared_on_resume(
    source: dict[str, Any], output: dict[str, Any], params: dict[str, Any], name: str
) -> None:
    usual = resume_settings(InputSpec(), OutputSpec(), GenerationParams(), {"model": "m"})
    changed = resume_settings(InputSpec(**source), OutputSpec(**output), GenerationParams(**params), {"model": "m"})
    assert {key for key in usual | changed if usual.get(key) != changed.get(key)} == {name}


def test_prefix_is_compared_by_its_hash_and_not_stored_in_full() -> None:
    settings = resume_settings(InputSpec(prefix="secret " * 1000), OutputSpec(), GenerationParams(), {})
    assert "secret" not in json.dumps(settings)
    assert len(settings["--prefix"]) == 32
