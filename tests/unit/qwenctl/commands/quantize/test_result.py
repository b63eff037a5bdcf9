"""What a quantization prints: results and plans in words and JSON, and how SIGTERM ends it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from quantize.convert import ConversionResult
from quantize.errors import Interrupted
from quantize.plan import ConversionPlan, QuantizeOptions, make_plan
from qwenctl.commands.quantize.result import (
    available_cpus,
    handle_sigterm,
    print_status,
    show_plan,
    show_result,
)
from qwenctl.errors import ExitCode, QwenctlError


@pytest.fixture
def plan(toy: Path, tmp_path: Path) -> ConversionPlan:
    return make_plan(toy, tmp_path / "my model.gguf", QuantizeOptions("Q8_0"))


def test_plan_as_json_adds_up_and_takes_more_fields(plan: ConversionPlan, capfd: pytest.CaptureFixture[str]) -> None:
    show_plan(plan, 2, as_json=True, more={"repository": "owner/name"})
    fields = json.loads(capfd.readouterr().out)
    assert (fields["type"], fields["threads"], fields["repository"]) == ("Q8_0", 2, "owner/name")
    assert fields["bytes"] == sum(file["bytes"] for file in fields["files"])
    assert sum(part["bytes"] for part in fields["classes"]) == sum(one["bytes"] for one in fields["tensors"])
    assert fields["disk"]["needed_bytes"] == fields["bytes"]


def test_result_in_words_is_on_standard_error_and_paths_are_on_standard_output(
    plan: ConversionPlan, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = tuple(file.path for file in plan.files)
    show_result(plan, ConversionResult(paths, plan.n_bytes, 0, 1.0, 0.5, 2), as_json=False, quiet=False)
    captured = capfd.readouterr()
    assert captured.out.splitlines() == [str(path) for path in paths]
    assert captured.err.splitlines()[-1] == f"next: qwenctl chat -m '{paths[0]}'"


def test_result_as_json_has_files_and_seconds(plan: ConversionPlan, capfd: pytest.CaptureFixture[str]) -> None:
    show_result(plan, ConversionResult((), plan.n_bytes, 7, 1.23456, 0.5, 2), as_json=True, quiet=True)
    captured = capfd.readouterr()
    fields = json.loads(captured.out)
    assert (fields["resumed_bytes"], fields["seconds"], len(fields["files"])) == (7, 1.235, 2)
    assert captured.err == ""


def test_quiet_status_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    print_status("one", quiet=True)
    print_status("two", "three", quiet=False)
    assert capfd.readouterr().err == "two\nthree\n"


def convert_until(number: signal.Signals) -> None:
    """What a conversion does with SIGTERM or SIGHUP: it saves, and says so."""
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt as stopped:
        raise Interrupted("half is saved") from stopped


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, ExitCode.TERMINATED), (signal.SIGHUP, ExitCode.HUNG_UP)])
def test_signal_ends_a_conversion_with_its_own_exit_code_and_what_is_saved(
    number: signal.Signals, code: ExitCode
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(QwenctlError, match="half is saved") as caught, handle_sigterm():
        convert_until(number)
    assert caught.value.code == code
    assert signal.getsignal(number) == before


def test_sigterm_before_the_conversion_ends_the_program() -> None:
    with pytest.raises(SystemExit) as caught, handle_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == ExitCode.TERMINATED


def test_interrupt_by_ctrl_c_stays_what_it_is() -> None:
    with pytest.raises(Interrupted), handle_sigterm():
        raise Interrupted("half is saved") from KeyboardInterrupt()


def test_there_is_a_processor_at_least() -> None:
    assert available_cpus() >= 1
