"""`qwenctl plan`, and the placement options of chat and batch."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from qwenctl.commands.options.load_options import with_drafts
from qwenctl.loading.model_files import reserve_mmproj, vision_settings
from qwenctl.loading.open_model import resolve
from qwenctl.placement.constraints import LoadRequest, PlacementConstraints
from qwenctl.placement.plan_file import to_json
from qwenctl.protocol.media import VisionSettings
from tests.support.checkpoints import make_sparse
from tests.support.cli_runner import outcome, run
from tests.support.fake_hub import FakeHub, serve_folder
from tests.support.gguf_files import converted, rewritten
from tests.support.paths import DATA
from tests.support.pulling import qwenctl
from tests.support.qwen35_layout import PUBLISHED
from tests.support.rpc_server import rpc_server

MIB = 1 << 20
MACHINE = ("--gpu-memory", "24G", "--ram", "256G")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse checkpoint of the 397B model."""
    return make_sparse(tmp_path_factory.mktemp("397B") / "Qwen3.5-397B-A17B", PUBLISHED["397B"])


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with rpc_server(200 * MIB) as found:
        yield found


def test_plan_prints_a_chart_a_table_a_forecast_and_reasons(large: Path, tmp_path: Path) -> None:
    done = run("plan", str(large), *MACHINE, "--svg", str(tmp_path / "plan.svg"), COLUMNS="100")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    bars = [line for line in text.splitlines() if line.startswith(("RAM  ", "GPU0 "))]
    assert [len(set(line) & set("#XLK.")) > 2 for line in bars[:2]] == [True, True]
    assert all(len(line) <= 100 for line in text.splitlines())
    for word in ("linear attention", "routed experts", "KV cache", "free before", "tokens/s", "limited by RAM"):
        assert word in text
    drawing = ElementTree.parse(tmp_path / "plan.svg").getroot()  # noqa: S314 - written by the program under test
    titles = [title.text or "" for title in drawing.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith("routed experts: ") for title in titles)


def test_plan_on_a_narrow_terminal_succeeds(large: Path) -> None:
    done = run("plan", str(large), "--type", "Q2_K", "--gpu-memory", "24G,24G", "--ram", "192G", COLUMNS="60")
    assert done.returncode == 0


def test_saved_plan_loads_the_model_the_same_way(toy_gguf: Path, endpoint: str, tmp_path: Path) -> None:
    placement = ("--rpc", endpoint, "--n-cpu-moe", "2", "-t", "1", "-c", "2048", "--fit-target", "0")
    done = run("plan", str(toy_gguf), *placement, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    plan = json.loads(done.stdout)
    assert plan["exact"]
    assert [memory["name"] for memory in plan["memories"]] == ["CPU", "RPC0"]
    (tmp_path / "plan.json").write_bytes(done.stdout)
    question = ("What is the capital of France?", "-m", str(toy_gguf), "--temp", "0", "--no-think")
    answers = [
        run("chat", *question, *options)
        for options in (("-t", "1"), placement, ("--plan", str(tmp_path / "plan.json")))
    ]
    assert [(answer.returncode, answer.stdout) for answer in answers] == [(0, answers[0].stdout)] * 3
    assert b"Paris" in answers[0].stdout


def parts(memories: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, int]]]]:
    """What is planned for each memory, by class; how much is free there changes from one moment to the next."""
    return [(one["name"], [(part["kind"], part["n_bytes"]) for part in one["parts"]]) for one in memories]


def split_vision(memories: Iterable[Mapping[str, Any]]) -> tuple[int, list[tuple[str, list[tuple[str, int]]]]]:
    """The bytes for the vision encoder, and all else that is planned."""
    used = parts(memories)
    vision = sum(n_bytes for _, memory in used for kind, n_bytes in memory if kind == "vision")
    return vision, [(name, [one for one in memory if one[0] != "vision"]) for name, memory in used]


@pytest.mark.parametrize(
    ("model", "draft", "options", "kinds"),
    [
        ("whole", "auto", (), {"MTP"}),
        ("without MTP", "auto", (), set()),
        ("seeing", "auto", ("-c", "8192", "-ctk", "q8_0", "--n-cpu-moe", "2"), {"MTP", "vision"}),
        ("seeing", "ngram", ("--no-mtp",), {"vision"}),
    ],
)
def test_plan_reserves_what_a_chat_reserves(
    toy_gguf: Path,
    seeing_gguf: Path,
    tmp_path: Path,
    endpoint: str,
    model: str,
    draft: Literal["auto", "ngram"],
    options: tuple[str, ...],
    kinds: set[str],
) -> None:
    path = {"whole": toy_gguf, "seeing": seeing_gguf}.get(model) or rewritten(
        toy_gguf, tmp_path / "x.gguf", keep=lambda name: not name.startswith("blk.4.")
    )
    given = PlacementConstraints(rpc=(endpoint,), fit_targets=(0,), threads=1)
    if "-c" in options:
        given = replace(given, context=8192, cache_k="q8_0", cpu_experts=2)
    tower = vision_settings(path, None, VisionSettings()).mmproj
    chat = resolve(path, reserve_mmproj(with_drafts(LoadRequest(given), draft, 0, 0), tower)).plan
    assert chat is not None
    expected = json.loads(to_json(chat))
    done = run("plan", str(path), "--rpc", endpoint, "--fit-target", "0", "-t", "1", *options, "--json")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert parts(found["memories"]) == parts(expected["memories"])
    assert found["settings"] == expected["settings"]
    used = {kind for _, memory in parts(found["memories"]) for kind, n_bytes in memory if n_bytes}
    assert used & {"MTP", "vision"} == kinds


def test_plan_without_vision_reserves_nothing_for_it(seeing_gguf: Path) -> None:
    for options, kinds in (((), 1), (("--vision",), 1), (("--no-vision",), 0)):
        found = json.loads(run("plan", str(seeing_gguf), *MACHINE, *options, "--json").stdout)
        assert str(parts(found["memories"])).count("'vision'") == kinds


def test_plan_for_another_model_is_refused(toy_gguf: Path, tmp_path: Path) -> None:
    plan, other = tmp_path / "plan.json", tmp_path / "other.gguf"
    converted(DATA / "toy", other, "Q4_K_M", vision=False)
    plan.write_bytes(run("plan", str(other), "--json").stdout)
    for command in (("chat", "-m", str(toy_gguf), "Hello."), ("batch", "-m", str(toy_gguf), "--lines", str(plan))):
        done = run(*command, "--plan", str(plan))
        assert (done.returncode, done.stdout) == (65, b"")
        line, hint = done.stderr.decode().splitlines()
        assert line == f"qwenctl: error: plan.json is a plan for other, not for {toy_gguf.name}"
        assert hint == f"  hint: qwenctl plan {toy_gguf} --json > {plan}"
    copy = tmp_path / "renamed.gguf"
    copy.symlink_to(other)
    assert run("chat", "-m", str(copy), "--plan", str(plan), "Hello.").returncode == 0


def test_plan_with_a_missing_device_is_refused(toy_gguf: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(run("plan", str(toy_gguf), "--gpu-memory", "8G", "--json").stdout)
    message, hint, code = outcome("chat", "-m", str(toy_gguf), "--plan", str(plan), "Hello.")
    assert (message, code) == ("no device is named GPU0", 2)
    assert hint == "available: CPU; `qwenctl doctor` shows what is here, and a new plan uses it"


def test_chat_loads_again_when_a_device_runs_out_of_memory(toy_gguf: Path) -> None:
    with rpc_server(200 * MIB, enforced=14 * MIB) as endpoint:
        done = run(
            "chat", "What is the capital of France?", "-m", str(toy_gguf), "--temp", "0", "-t", "1", "-c", "2048",
            "--rpc", endpoint, "--no-think",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert b"Paris" in done.stdout
    assert b"warning: RPC0 did not have enough memory for the plan; trying again with " in done.stderr


def test_batch_on_an_rpc_device_gives_the_same_answers(toy_gguf: Path, tmp_path: Path) -> None:
    records = [{"id": str(number), "prompt": f"What is 2 + {number}?"} for number in range(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = ("-m", str(toy_gguf), "-c", "512", "-t", "1", "--temp", "0", "--no-think", "--parallel", "2")
    answers = []
    with rpc_server(24 * MIB) as endpoint:
        for name, more in (("plain", ()), ("placed", ("--rpc", endpoint, "--fit-target", "0", "--n-cpu-moe", "2"))):
            output = tmp_path / f"{name}.jsonl"
            done = run("batch", str(tmp_path / "in.jsonl"), "-o", str(output), *options, *more)
            assert done.returncode == 0, done.stderr.decode()
            answers.append(output.read_text())
    assert answers[0] == answers[1]
    assert answers[0].count("2 + ") >= 4


@pytest.mark.parametrize(
    ("options", "line", "hint", "code"),
    [
        (
            ("--device", "GPU7", *MACHINE),
            "--device: no device is named GPU7", "available: GPU0", 2,
        ),
        (
            ("--device", "none", "-ngl", "3", *MACHINE),
            "--device none and -ngl cannot be used together", "leave one of them out", 2,
        ),
        (
            ("--device", "GPU0", "-ot", "ffn_up_exps=GPU1", "--gpu-memory", "24G,24G", "--ram", "256G"),
            "-ot: no device is named GPU1", "available: GPU0", 2,
        ),
        (
            ("--cpu-moe", "--n-cpu-moe", "3", *MACHINE),
            "--cpu-moe and --n-cpu-moe cannot be used together", "leave one of them out", 2,
        ),
        (
            ("-fa", "off", "-ctv", "q8_0", *MACHINE),
            "-fa off and -ctv q8_0 cannot be used together", "leave one of them out", 2,
        ),
        (
            ("-ts", "1,2", *MACHINE),
            "-ts has more numbers than there are devices (1)", "available: GPU0", 2,
        ),
        (
            ("-ot", "exps", *MACHINE),
            "-ot 'exps' is not REGEX=DEVICE", r"for example -ot '\.ffn_.*_exps\.=CPU'", 2,
        ),
        (
            ("-ot", "nothing=CPU", *MACHINE),
            "-ot 'nothing' matches no tensor", "`qwenctl plan --json` lists the names", 2,
        ),
        (
            ("--gpu-memory", "much"),
            "invalid value for '--gpu-memory': 'much' is not a size",
            "24G or 24GiB is 24 * 1024^3 bytes, 24GB is 24 * 1000^3; units: K, M, G, T", 2,
        ),
        (
            ("-ngl", "3", "--ram", "512G"),
            "-ngl 3: this llama.cpp can use no GPU", "see `qwenctl doctor`", 78,
        ),
        (
            ("--n-cpu-moe", "10", *MACHINE),
            "--n-cpu-moe 10 does not fit: GPU0 would hold 193 GiB, 22.5 GiB is free", "--n-cpu-moe 58 fits", 71,
        ),
        (
            ("--gpu-memory", "24G", "--ram", "128G"),
            "needs 213 GiB of RAM (experts 210 GiB, context and buffers 2.78 GiB), 122 GiB is free "
            "(91.2 GiB short)",
            "a smaller quantization or context; --paging reads what does not fit from disk, for every token", 71,
        ),
        (
            ("--rpc", "127.0.0.1:1"),
            "127.0.0.1:1 does not answer (connection refused)",
            "`qwenctl worker` must be running there, and its port reachable", 69,
        ),
        (("--rpc", "127.0.0.1"), "'127.0.0.1' is not HOST:PORT", "--rpc 127.0.0.1:50052", 2),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_impossible_plan_is_refused(large: Path, options: tuple[str, ...], line: str, hint: str, code: int) -> None:
    assert outcome("plan", str(large), *options) == (line, hint, code)


def test_invalid_plan_file_is_refused(toy_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"version": 1}')
    line, hint, code = outcome("chat", "hi", "-m", str(toy_gguf), "--plan", str(tmp_path / "plan.json"))
    expected = "plan.json is not a plan (it lacks 'model')"
    assert (line, hint, code) == (expected, "qwenctl plan MODEL --json > plan.json", 65)
    error = outcome("chat", "hi", "-m", str(toy_gguf), "--plan", str(tmp_path / "plan.json"), "-ngl", "3")
    assert error == ("--plan cannot be used with options that a plan sets", "leave one of them out", 2)


def test_type_option_for_a_quantized_file_is_refused(toy_gguf: Path) -> None:
    line, _, code = outcome("plan", str(toy_gguf), "--type", "Q2_K")
    assert (line, code) == ("toy-Q8_0.gguf is quantized already: --type is for checkpoints", 2)


def test_hub_model_is_planned_from_its_headers(toy: Path, seeing_gguf: Path, tmp_path: Path) -> None:
    quantized = tmp_path / "quantized"
    shutil.copytree(seeing_gguf.parent, quantized)
    (quantized / seeing_gguf.name).rename(quantized / "Toy-Q4_K_M.gguf")
    repos = {"qwen/Toy": serve_folder(toy), "qwen/Toy-GGUF": serve_folder(quantized)}
    expected = json.loads(run("plan", str(seeing_gguf), *MACHINE, "--json").stdout)
    vision, others = split_vision(expected["memories"])
    assert vision > 0
    with FakeHub(repos) as hub:
        for name, more in (("qwen/Toy", ("--type", "Q8_0")), ("qwen/Toy-GGUF:Q4_K_M", ()), ("qwen/Toy-GGUF", ())):
            done = qwenctl(hub, tmp_path, "plan", name, *more, *MACHINE, "--json")
            assert done.returncode == 0, done.stderr
            plan = json.loads(done.stdout)
            assert plan["model"] == (f"{name}:Q8_0" if more else "qwen/Toy-GGUF:Q4_K_M")
            assert plan["settings"] == expected["settings"]
            found = split_vision(plan["memories"])
            # Of a checkpoint only the tensors of the mmproj file are known, without its header.
            assert found == (pytest.approx(vision, rel=0.05), others)
        assert not list((tmp_path / "hf").rglob("*.gguf"))
        failed = qwenctl(hub, tmp_path, "plan", "qwen/Other", *MACHINE)
    assert failed.returncode == 66
    assert "qwen/Other" in failed.stderr


def test_vision_option_without_an_mmproj_file_is_refused(toy_gguf: Path) -> None:
    line, _, code = outcome("plan", str(toy_gguf), "--vision", *MACHINE)
    assert (line, code) == ("no mmproj file found for toy-Q8_0", 2)
