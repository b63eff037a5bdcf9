"""Every option of every command has an effect on what is done, or keeps its promise, or is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantize.plan import QuantizeOptions, make_plan
from qwenctl.batch.input.selection import select_records
from qwenctl.batch.records import GenerationParams
from qwenctl.batch.specs import InputSpec
from qwenctl.commands.quantize.result import check_parts
from qwenctl.errors import QwenctlError
from qwenctl.hub.select.target import ResolvedTarget
from tests.support.reached_options import ROOT, CommandRunner, command_runner

# A value for each option that is not a switch; an option without one here is new, and needs one.
VALUES = {
    "model": "other", "ctx_size": "512", "threads": "3", "batch_size": "64", "ubatch_size": "32", "gpu_layers": "2",
    "n_cpu_moe": "1", "override_tensor": "x=CPU", "fit_target": "2G", "tensor_split": "1,2", "device": "none",
    "rpc": "localhost:1", "cache_type_k": "q8_0", "cache_type_v": "q8_0", "flash_attn": "on", "load_mode": "none",
    "snapshot_ram": "1G", "plan": "plan.json", "predict": "0", "system_prompt": "Be brief.", "image": "a.png",
    "mmproj": "tower.gguf", "image_min_tokens": "65", "image_max_tokens": "4095", "fps": "3", "max_frames": "3",
    "think_budget": "0", "on_full": "summarize", "json_schema": "{}", "grammar": 'root ::= "a"', "prefix": "text.txt",
    "temp": "0", "top_k": "0", "top_p": "0", "min_p": "0.5", "presence_penalty": "0", "frequency_penalty": "1",
    "repeat_penalty": "2", "repeat_last_n": "0", "seed": "5", "draft": "off", "draft_max": "2", "draft_min": "1",
    "tools": "tools.json", "tool_timeout": "5", "color": "always", "save_as": "name", "resume": "missing",
    "output": "out.jsonl", "prompt": "{a}", "system": "{b}", "keep": "a", "style": "openai", "select": "id",
    "order": "done", "parallel": "2", "limit": "2", "sample": "2", "endpoint": "http://127.0.0.1:1", "api_key": "k",
    "timeout": "5", "patience": "5", "plot": "p.svg", "chat_template": "template.jinja",
    "chat_template_kwargs": '{"mood": "calm"}',
    "hf_name": "c/d", "revision": "v2", "quantize": "Q4_0", "spool": "2G", "locked": "pulled.lock", "to": "folder",
    "wait": "5", "connections": "3", "type_name": "Q8_0", "tensor_type": "ffn=q6_k", "imatrix": "i.gguf",
    "vision_type": "F32", "split_max_size": "1G", "gpu_memory": "24G", "ram": "64G", "svg": "p.svg", "n_prompt": "7",
    "n_gen": "7", "depths": "7", "repetitions": "7", "price": "1", "watts": "7", "time_limit": "7", "host": "127.0.0.2",
    "port": "7", "form": "json",
}  # fmt: skip
BESIDE = {"save_as": ["--prefix", "text.txt"]}
# An option that asks for nothing to be done (not to ask, to save, to print) keeps its promise where that is so anyway.
CHAT_PIPE = {"no_save", "no_history"}
# What these do comes after the work, or around it: other tests show it.
AFTER = {"json", "quiet", "plot", "svg", "dry_run"}
# The forms of each command: how it is called, and the options that need no effect on the values of its work there.
FORMS: dict[str, list[tuple[list[str], set[str]]]] = {
    "chat": [
        (["chat", "-m", "MODEL", "hi"], CHAT_PIPE),
        (["chat", "-m", "MODEL", "--json", "hi"], {*CHAT_PIPE, "json"}),
        (["chat", "-m", "MODEL", "--prefix", "text.txt", "--save-as", "name"], {*CHAT_PIPE, "prefix", "save_as"}),
        (["TERMINAL", "chat", "-m", "MODEL"], set()),
        (["chat", "-m", "MODEL", "--no-think", "hi"], CHAT_PIPE),
        (["chat", "-m", "MODEL", "--draft", "off", "hi"], {*CHAT_PIPE, "draft"}),
        (["chat", "-m", "MODEL", "--tools", "tools.json", "--json", "hi"], {*CHAT_PIPE, "json", "tools"}),
    ],
    "batch": [
        (["batch", "-m", "MODEL"], AFTER),
        (["batch", "-m", "MODEL", "--lines"], {*AFTER, "lines"}),
        (["batch", "-m", "MODEL", "--csv", "--prompt", "{a}"], {*AFTER, "csv", "prompt"}),
        (["batch", "-m", "MODEL", "--select", "id"], {*AFTER, "select"}),
        (["batch", "-m", "MODEL", "-o", "o.jsonl", "--overwrite"], {*AFTER, "overwrite"}),
        (["batch", "-m", "MODEL", "--endpoint", "http://127.0.0.1:1"], {*AFTER, "endpoint", "api_key"}),
    ],
    "quantize": [(["quantize", "FOLDER"], set()), (["quantize", "a/b"], set())],
    "pull": [
        (["pull", "a/b:Q8_0"], {"hf_name"}),
        (["QUANTIZED", "pull", "a/b", "--quantize", "Q8_0"], set()),
        (["CHECKPOINT", "pull", "a/b", "--source"], {"source"}),
        (["pull", "a/b:Q8_0", "--offline"], {"offline", "yes", "dry_run", "locked", "source"}),
        (["pull", "--locked", "pulled.lock"], {"yes", "locked"}),
        (["pull", "--locked", "made.lock"], {"yes"}),
        (["pull", "--locked", "made.lock", "--offline"], {"yes", "dry_run", "offline"}),
    ],
    "ls": [(["ls"], set()), (["ls", "a/b"], set())],
    "show": [(["show", "MODEL"], set())],
    "verify": [(["verify"], set()), (["verify", "--json"], {"json"})],
    "rm": [(["rm", "a"], {"yes"})],
    "clean": [(["clean"], {"yes"}), (["clean", "--dry-run"], {"yes", "dry_run"})],
    "plan": [(["plan", "MODEL"], {"svg"}), (["plan", "MODEL", "--plan", "plan.json"], {"svg", "plan"})],
    "bench": [(["bench", "MODEL"], AFTER)],
    "tune": [(["tune", "MODEL"], AFTER), (["tune", "MODEL", "--forget"], {"forget"})],
    "doctor": [(["doctor"], {"json"})],
    "worker": [(["worker"], set())],
    "sessions": [(["sessions"], set()), (["sessions", "OPTION", "show", "saved"], set())],
    "sessions show": [(["sessions", "show", "saved"], set())],
    "sessions export": [(["sessions", "export", "saved"], set())],
    "prefixes": [(["prefixes"], set()), (["prefixes", "OPTION", "show", "saved"], set())],
    "config show": [(["config", "show"], set()), (["config", "show", "--json"], {"json", "origin"})],
}
CASES = [(name, words, exempt) for name, forms in FORMS.items() for words, exempt in forms]
reached = pytest.fixture(command_runner)


def options_of(command: Any) -> Iterator[Any]:
    for parameter in command.params:
        if parameter.opts[0].startswith("-") and parameter.name != "help":
            yield parameter


def commands_below(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield " ".join((*above, name)), command
        if hasattr(command, "commands"):
            yield from commands_below(command, (*above, name))


COMMANDS = dict(commands_below(ROOT))


def spellings(parameter: Any, given: list[str]) -> Iterator[list[str]]:
    """The ways to give the option, but those by which `given` has it already."""
    flags = [*parameter.opts, *parameter.secondary_opts]
    if not parameter.is_flag:
        flags = flags[-1:]
    for flag in flags:
        words = [flag] if parameter.is_flag else [flag, VALUES[parameter.name]]
        if words != given[-len(words) :]:
            yield words


def test_forms_of_all_commands_with_options_are_listed() -> None:
    assert {name for name, command in COMMANDS.items() if any(options_of(command))} == set(FORMS)


@pytest.mark.parametrize(("command", "form", "exempt"), CASES, ids=[" ".join(words) for _, words, _ in CASES])
def test_every_option_has_an_effect_or_is_refused(
    reached: CommandRunner, command: str, form: list[str], exempt: set[str]
) -> None:
    reached.on_terminal = "TERMINAL" in form
    listing = reached.target.listing
    if "QUANTIZED" in form:
        reached.target = ResolvedTarget(listing, recipe="Q8_0")
    if "CHECKPOINT" in form:
        reached.target = ResolvedTarget(listing, "checkpoint", listing.files)
    form = [word for word in form if word not in ("TERMINAL", "QUANTIZED", "CHECKPOINT")]

    def run(*more: str) -> str:
        if "OPTION" not in form:
            return reached.run(*form, *more)
        return reached.run(*(one for word in form for one in (more if word == "OPTION" else [word])))

    ignored = set()
    for parameter in options_of(COMMANDS[command]):
        beside = BESIDE.get(parameter.name, [])
        before = run(*beside)
        ways = list(spellings(parameter, form))
        if all(run(*beside, *words) == before for words in ways):
            ignored.add(parameter.name)
    assert ignored <= exempt


@pytest.mark.parametrize(
    "words",
    [
        ["chat", "--grammar", ""], ["chat", "-j", " "], ["chat", "-sys", ""], ["chat", "-i", ""], ["batch", "-j", ""],
        ["batch", "--prompt", ""], ["batch", "--system", ""], ["chat", "--prefix", ""],
        ["chat", "--device", ""], ["chat", "-ts", ""], ["batch", "--keep", ""],
    ],
)  # fmt: skip
def test_option_with_an_empty_value_is_refused(reached: CommandRunner, words: list[str]) -> None:
    assert reached.run(words[0], "-m", "MODEL", *words[1:]).endswith(" is empty")


@pytest.mark.parametrize("option", ["--grammar", "--json-schema"])
@pytest.mark.parametrize("command", ["chat", "batch"])
def test_empty_file_of_a_constraint_is_refused(reached: CommandRunner, command: str, option: str) -> None:
    Path("empty").write_text(" \n")
    assert reached.run(command, "-m", "MODEL", option, "empty") == f"{option} empty: the file is empty"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chat", "--grammar", "a ::= b", "-j", "{}"], "--grammar and --json-schema cannot be used together"),
        (["batch", "--grammar", "a ::= b", "-j", "{}"], "--grammar and --json-schema cannot be used together"),
        (["chat", "--draft", "off", "--draft-max", "4", "x"], "--draft-max and --draft off cannot be used together"),
        (["chat", "--no-think", "--think-budget", "9"], "--think-budget and --no-think cannot be used together"),
        (["batch", "--no-think", "--think-budget", "9"], "--think-budget and --no-think cannot be used together"),
        (["chat", "--fps", "4", "x"], "--fps has no effect without --image"),
        (["chat", "--mmproj", "tower.gguf", "x"], "--mmproj has no effect without --image"),
        (["chat", "--color", "always", "x"], "--color has no effect on an answer in a pipe, which is plain text"),
        (["chat", "--tools", "tools.json", "--json", "-y", "x"], "--yes has no effect beside --json"),
        (["batch", "--lines", "--fps", "4"], "--fps has no effect on prompts of text only"),
        (["batch", "--endpoint", "http://x", "--allow-url"], "--allow-url and --endpoint cannot be used together"),
        (["batch", "-o", "x", "--overwrite", "--retry-errors"],
         "--retry-errors and --overwrite cannot be used together"),
        (["chat", "--tools", "tools.json", "-j", "{}"], "--tools and --json-schema cannot be used together"),
        (["chat", "-y"], "--yes has no effect without --tools"),
        (["chat", "--tool-timeout", "5"], "--tool-timeout has no effect without --tools"),
        (["batch", "--seed", "-1"], "--seed -1: a batch needs a seed, so that it can be resumed"),
        (["batch", "--patience", "5"], "--patience has no effect without --endpoint"),
        (["batch", "--endpoint", "http://x", "-ngl", "5"], "--gpu-layers and --endpoint cannot be used together"),
        (["batch", "--endpoint", "http://x", "--mmproj", "m"], "--mmproj and --endpoint cannot be used together"),
    ],
)  # fmt: skip
def test_options_that_ignore_each_other_are_refused(reached: CommandRunner, words: list[str], message: str) -> None:
    assert reached.run(words[0], "-m", "MODEL", *words[1:]) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quantize", "FOLDER", "--revision", "v2"], "--revision has no effect for a folder: FOLDER is not downloaded"),
        (["quantize", "FOLDER", "--spool", "2G"], "--spool has no effect for a folder: FOLDER is not downloaded"),
        (["quantize", "a/b", "--no-vision", "--vision-type", "F32"],
         "--vision-type and --no-vision cannot be used together"),
        (["quantize", "a/b@v1", "--revision", "v2"], "--revision v2, but the name has v1"),
        (["pull", "a/b:Q8_0", "--spool", "2G"], "--spool is only for --quantize, and Q8_0 needs no quantizing"),
        (["pull", "a/b:Q8_0", "-o", "x", "--to", "y"], "--to and --output cannot be used together"),
        (["pull", "--locked", "pulled.lock", "--revision", "v2"], "--revision and --locked cannot be used together"),
        (["pull", "--locked", "pulled.lock", "-o", "x"], "-o is only for --quantize, and Q8_0 needs no quantizing"),
        (["pull", "a/b", "--offline", "--connections", "3"], "--connections and --offline cannot be used together"),
        (["ls", "--revision", "v2"], "--revision has no effect without NAME"),
        (["ls", "a/b", "-hf", "c/d"], "a/b and -hf c/d are two models"),
        (["tune", "MODEL", "--forget", "--kv"], "--kv and --forget cannot be used together"),
        (["plan", "MODEL", "--plan", "p.json", "--ram", "64G"], "--ram and --plan cannot be used together"),
        (["sessions", "--json", "show", "saved"], "--json has no effect before 'show'"),
    ],
)  # fmt: skip
def test_option_that_this_form_of_a_command_ignores_is_refused(
    reached: CommandRunner, words: list[str], message: str
) -> None:
    assert reached.run(*words) == message.replace("FOLDER", reached.given["FOLDER"])


def test_option_for_a_part_that_the_model_has_not_is_refused(reached: CommandRunner, toy: Path) -> None:
    plan = make_plan(toy, None, QuantizeOptions(mtp=False, vision=False))
    for option, part in (("--mtp", "MTP block"), ("--vision", "vision encoder"), ("--vision-type", "vision encoder")):
        with pytest.raises(QwenctlError, match=f"{option} has no effect: {toy.name} has no {part}"):
            check_parts(plan, (option,))
    check_parts(make_plan(toy, None, QuantizeOptions()), ("--mtp", "--vision"))


def test_settings_of_a_file_that_do_not_apply_are_no_error(reached: CommandRunner) -> None:
    written = {"chat": {"fps": "4", "draft-max": "4", "color": "always", "think-budget": "3"}}
    arguments = ["chat", "-m", "MODEL", "--draft", "off", "--no-think", "hi"]
    assert reached.run(*arguments, settings=written).startswith("((ChatRequest(")
    assert "Q8_0" in reached.run("pull", "a/b:Q8_0", settings={"pull": {"spool": "2G", "output": "x"}})


def test_options_that_were_ignored_beside_others_are_obeyed(reached: CommandRunner) -> None:
    rows = json.loads(reached.run("verify", "--json", "-q").removeprefix("done"))["files"]
    assert [row["state"] for row in rows] == ["damaged"]
    assert reached.run("pull", "a/b:Q8_0", "--offline", "--to", "x").startswith("((ModelName(")
    items = [str(number) for number in range(20)]
    Path("in.txt").write_text("\n".join(items))
    given = InputSpec("in.txt", "lines", limit=5, sample=3)
    with Path("in.txt").open("rb") as stream:
        drawn = [item.key for item in select_records(given, given.format(GenerationParams()), stream)]
    assert len(drawn) == 3
    assert {int(key) for key in drawn} <= set(range(1, 6))


def test_output_that_is_a_folder_gets_a_file_in_it(reached: CommandRunner, tmp_path: Path) -> None:
    Path("folder").mkdir()
    for place in ("folder", "new/folders/"):
        assert reached.run("sessions", "export", "saved", "-o", place) == "done"
        assert Path(place, "saved.md").read_text().startswith("#")
        assert reached.run("sessions", "export", "saved", "--format", "json", "-o", f"{place}") == "done"
        assert json.loads(Path(place, "saved.json").read_text())["messages"]
        assert f"path='{place.rstrip('/')}/in.answers.jsonl'" in reached.run(
            "batch", "-m", "MODEL", "in.txt", "-o", place
        )
    assert "path='other/answers.jsonl'" in reached.run("batch", "-m", "MODEL", "-o", "other/")
    assert not Path("other").exists()  # nothing was written into it
