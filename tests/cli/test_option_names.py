"""Messages name an option as it is typed, never as the field that it sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantize.errors import BadOption
from quantize.plan import QuantizeOptions, make_plan
from qwenctl.batch.output.opening import resume_settings
from qwenctl.batch.output.writers import FileOutput
from qwenctl.batch.records import GenerationParams
from qwenctl.batch.specs import InputSpec, OutputSpec
from qwenctl.errors import QwenctlError
from qwenctl.models.sampling import SAMPLING_OPTIONS
from tests.support.reached_options import ROOT, CommandRunner, command_runner

reached = pytest.fixture(command_runner)
WRONG = ("zzz", "-99999999999999")


def parsed_options(group: Any, above: tuple[str, ...] = ()) -> Iterator[Any]:
    """The options of all commands that take a number, a size or a time: the command's words and the parameter."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from parsed_options(command, (*above, name))
            continue
        for parameter in command.params:
            if not parameter.opts[0].startswith("-") or parameter.is_flag:
                continue
            if parameter.type_descriptor.annotation not in (str, Path, list[str]):
                yield (*above, name), parameter


# Commands share most options: each is tried once.
OPTIONS = {tuple(parameter.opts): (command, parameter) for command, parameter in parsed_options(ROOT)}


@pytest.mark.parametrize(("command", "parameter"), OPTIONS.values(), ids=[opts[-1] for opts in OPTIONS])
def test_wrong_value_is_reported_with_the_options_name(
    reached: CommandRunner, command: tuple[str, ...], parameter: Any
) -> None:
    long = next(name for name in parameter.opts if name.startswith("--"))
    messages = [reached.run(*command, f"{long}={value}") for value in WRONG]
    refused = [message for message in messages if message.startswith("Invalid value for ")]
    assert refused
    assert all(f"'{long}'" in message.partition(": ")[0] for message in refused)


@pytest.mark.parametrize(
    "words",
    [
        ["pull", "a/b", "--quantize", "zzz"], ["chat", "-m", "MODEL", "-ot", "zzz", "hi"],
        ["chat", "-m", "MODEL", "-ts", "zzz", "hi"], ["chat", "-m", "MODEL", "--chat-template", "empty", "hi"],
        ["bench", "MODEL", "--plot", "zzz.jpg"], ["batch", "-m", "MODEL", "--plot", "zzz.jpg"],
        ["batch", "-m", "MODEL", "--retry-errors"], ["batch", "-m", "MODEL", "--overwrite"],
        ["chat", "-m", "MODEL", "-i", "-", "-i", "-"],
        ["chat", "-m", "MODEL", "--grammar", "empty", "hi"],
        ["chat", "-m", "MODEL", "--draft-min", "9", "--draft-max", "1"],
    ],
)  # fmt: skip
def test_refused_value_is_reported_with_the_options_name(reached: CommandRunner, words: list[str]) -> None:
    Path("empty").touch()
    option = next(word for word in words if word.startswith("-") and word not in ("-m", "MODEL"))
    assert reached.run(*words).startswith(option)


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        (QuantizeOptions("zzz"), "--type"),
        (QuantizeOptions(vision_type="zzz"), "--vision-type"),
        (QuantizeOptions(vision_type="Q8_0"), "--vision-type"),
        (QuantizeOptions(overrides=("zzz",)), "--tensor-type"),
    ],
)
def test_refused_type_is_reported_with_the_options_name(toy: Path, wrong: QuantizeOptions, option: str) -> None:
    with pytest.raises(BadOption, match=f"^{option}"):
        make_plan(toy, None, wrong)


@pytest.mark.parametrize("option", SAMPLING_OPTIONS.values(), ids=lambda option: option.name)
def test_changed_setting_of_a_batch_is_named_as_its_option(tmp_path: Path, option: Any) -> None:
    usual, changed = GenerationParams(), GenerationParams(sampling={option.field: 1})
    assert f" --{option.name}, now it is 1" in _refusal(tmp_path, usual, changed)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (GenerationParams(think=False), "with --think, now it is --no-think"),
        (GenerationParams(think_budget=5), "with --think-budget -1, now it is 5"),
        (GenerationParams(max_tokens=5), "with --predict -1, now it is 5"),
        (GenerationParams(grammar="a"), 'without --grammar, now it is "a"'),
        (GenerationParams(json_schema="{}"), 'without --json-schema, now it is "{}"'),
    ],
)
def test_changed_limit_of_a_batch_is_named_as_its_option(tmp_path: Path, changed: GenerationParams, told: str) -> None:
    assert _refusal(tmp_path, GenerationParams(), changed).endswith(f"was written {told}")


def _refusal(folder: Path, before: GenerationParams, now: GenerationParams) -> str:
    """The message for an output that was begun with `before`, and is resumed with `now`."""

    def open_output(params: GenerationParams) -> None:
        settings = resume_settings(InputSpec(), OutputSpec(), params, {"model": "m"})
        FileOutput(folder / "out.jsonl", settings, "input", force=False, retries=False).close(is_complete=False)

    open_output(before)
    with pytest.raises(QwenctlError) as caught:
        open_output(now)
    return caught.value.message
