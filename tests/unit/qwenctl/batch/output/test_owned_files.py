"""A batch changes and removes only files that a batch made; anything else beside an output stops it at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenctl.batch.output.opening import lock_output, open_output
from qwenctl.batch.output.owned_files import Kind, check_owned
from qwenctl.batch.output.writers import sidecar_path
from qwenctl.batch.records import RecordError
from qwenctl.batch.run import run
from qwenctl.batch.specs import InputSpec, OutputSpec
from qwenctl.errors import ExitCode, QwenctlError
from tests.support.echo_backend import EchoSpec

BESIDE = ("out.stats.jsonl", "out.errors.jsonl", "out.jsonl.journal")
FOREIGN = (b"precious\n", b'{"id": "a", "error": "mine"}\n', b"no newline", b'{"batch": 7}\n[]\n')


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{number}", "prompt": f"p{number}"}) + "\n" for number in range(4)))
    return path


def refusal_of(source: Path, output: OutputSpec) -> QwenctlError:
    spec = EchoSpec()
    with pytest.raises(QwenctlError) as caught:
        run(input=InputSpec(source), output=output, backend=spec)
    assert spec.opened == 0
    return caught.value


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("name", BESIDE)
def test_file_of_somebody_else_beside_the_output_is_refused_and_left_alone(
    name: str, content: bytes, overwrite: bool, source: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "out.jsonl").write_bytes(b"" if not overwrite else b"old\n")
    error = refusal_of(source, OutputSpec(tmp_path / "out.jsonl", overwrite=overwrite))
    assert error.message == f"{tmp_path / name} exists, and no batch has made it"
    assert (error.hint, error.code) == (f"move {name} away, or choose another -o", ExitCode.CANNOT_CREATE)
    assert (tmp_path / name).read_bytes() == content
    assert (tmp_path / "out.jsonl").read_bytes() == (b"old\n" if overwrite else b"")


@pytest.mark.parametrize("name", BESIDE)
def test_symbolic_link_beside_the_output_is_not_followed(name: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / name).symlink_to(tmp_path / "target")
    error = refusal_of(source, OutputSpec(tmp_path / "out.jsonl"))
    assert error.code == ExitCode.CANNOT_CREATE
    assert "is a symbolic link" in error.message
    assert (tmp_path / name).is_symlink()
    assert (tmp_path / "target").read_bytes() == b""


def test_file_with_the_name_of_the_lock_is_refused_and_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.lock").write_text("mine\n")
    assert refusal_of(source, OutputSpec(tmp_path / "out.jsonl")).code == ExitCode.CANNOT_CREATE
    assert (tmp_path / "out.jsonl.lock").read_text() == "mine\n"


def test_output_that_is_a_symbolic_link_stays_one(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    for overwrite in (False, False, True):
        spec = OutputSpec(tmp_path / "out.jsonl", overwrite=overwrite)
        run(input=InputSpec(source), output=spec, backend=EchoSpec())
        assert (tmp_path / "out.jsonl").is_symlink()
        assert len((tmp_path / "elsewhere.jsonl").read_text().splitlines()) == 4


def test_files_that_earlier_releases_made_are_taken(tmp_path: Path) -> None:
    """Their lines have no checksum, their journal has no header, and their errors of bad lines have ids."""
    path = tmp_path / "out.jsonl"
    made: dict[Kind, bytes] = {
        "stats": b'{"batch": {"version": 1, "settings": {"model": "m"}}}\n',
        "errors": b'{"id": "line 3", "where": "in:3:1", "hash": "", "error": {"kind": "input", "message": ""}}\n',
        "journal": b'{"key": "b", "fingerprint": "f", "line": "{\\"id\\": \\"b\\"}", "stats": {"line": 2}}\n',
    }
    sidecar_path(path, "stats").write_bytes(made["stats"])
    sidecar_path(path, "errors").write_bytes(made["errors"])
    (tmp_path / "out.jsonl.journal").write_bytes(made["journal"])
    asked = ((0, "a", "f"), (1, "b", "f"), (2, "line 3", ""), (3, "line 3", "f"))
    with lock_output(OutputSpec(path), print):
        writer = open_output(OutputSpec(path), {"model": "m"}, print)
        known = [writer.already_done(*one) for one in asked]
        writer.write_error(0, "a", "f", "", RecordError("kind", "why"))
        writer.close(is_complete=False)
    assert known == [None, "done", "failed", None]
    assert path.read_text() == '{"id": "b"}\n'


@pytest.mark.parametrize("content", [b"", bytes(5000)])
def test_empty_file_and_zeros_have_nothing_to_lose(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    kinds: tuple[Kind, ...] = ("stats", "errors", "journal")
    for kind in kinds:
        check_owned(tmp_path / "file", kind)
