"""Which quantization a pull downloads, what it asks, and its output on a terminal and in a pipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import checkpoints
from tests.support.fake_hub import FakeHub, Repo, ServedFile, serve_folder
from tests.support.gguf_files import converted
from tests.support.paths import DATA
from tests.support.pulling import REPO, command, environment, failure, hub_cache, qwenctl, saved, snapshot, write_random
from tests.support.qwen35_layout import PUBLISHED
from tests.support.terminal import Terminal

GGUF, SOURCE, LARGE = "unsloth/Qwen3.5-0.8B-GGUF", "Qwen/Qwen3.5-0.8B", "Qwen/Qwen3.5-397B-A17B"
ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repo]:
    folder = tmp_path_factory.mktemp("repo")
    converted(DATA / "toy", folder / "Toy-Q8_0.gguf", "Q8_0", vision=False)
    converted(DATA / "toy", folder / "Toy-Q4_0.gguf", "Q4_0", vision=False)
    converted(DATA / "toy", folder / "Toy-F32.gguf", "F32", vision=False)
    info: dict[str, Any] = {"gguf": {"total": 11_970_000}}
    return {GGUF: serve_folder(folder, **info), SOURCE: serve_folder(DATA / "toy")}


@pytest.fixture
def hub(repos: dict[str, Repo]) -> Iterator[FakeHub]:
    with FakeHub(repos, cdn=True) as hub:
        yield hub


CHOSEN = (
    r"chosen: Q8_0 \(12\.2 MB\): the largest that fits in \S+ GiB of (GPU memory and \S+ GiB of )?RAM "
    r"with 616 MiB for 32,768 tokens of context\n"
)


def test_pull_without_quantization_takes_the_largest_that_fits(
    hub: FakeHub, repos: dict[str, Repo], tmp_path: Path
) -> None:
    done = qwenctl(hub, tmp_path, "pull", "qwen3.5-0.8b")
    assert done.returncode == 0, done.stderr
    assert re.search(CHOSEN, done.stderr)
    assert done.stdout == f"{snapshot(tmp_path, repos[GGUF], GGUF)}/Toy-Q8_0.gguf\n"
    assert f"next: qwenctl chat -m {GGUF}:Q8_0\n" in done.stderr


def test_quiet_pull_prints_only_the_path(hub: FakeHub, repos: dict[str, Repo], tmp_path: Path) -> None:
    done = qwenctl(hub, tmp_path, "pull", GGUF, "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{snapshot(tmp_path, repos[GGUF], GGUF)}/Toy-Q8_0.gguf\n"


def test_pull_json_is_one_object(hub: FakeHub, repos: dict[str, Repo], tmp_path: Path) -> None:
    done = qwenctl(hub, tmp_path, "pull", f"{GGUF}:q4-0", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["name"], result["commit"]) == (f"{GGUF}:Q4_0", repos[GGUF].commit)
    assert Path(result["path"]).is_file()


def test_pull_dry_run_downloads_nothing(hub: FakeHub, repos: dict[str, Repo], tmp_path: Path) -> None:
    plan = json.loads(qwenctl(hub, tmp_path, "pull", f"{GGUF}:Q8_0", "--dry-run", "--json").stdout)
    file = repos[GGUF].files["Toy-Q8_0.gguf"]
    assert plan["files"] == [
        {"path": file.path, "size": file.size, "sha256": file.sha256, "git_sha1": file.git_sha1, "state": "to download"}
    ]
    assert plan["needed_bytes"] == plan["bytes"] == file.size
    assert (hub.sent, list(hub_cache(tmp_path).rglob("*"))) == (0, [])
    text = qwenctl(hub, tmp_path, "pull", f"{GGUF}:Q8_0", "--dry-run").stdout
    assert re.search(r"^Toy-Q8_0\.gguf  12\.2 MB  to download  [0-9a-f]{12}$", text, re.MULTILINE)
    assert re.search(r"^to download: 12\.2 MB of 12\.2 MB; \S+ GB free in ", text, re.MULTILINE)


def test_ls_lists_the_quantizations_of_a_repository(hub: FakeHub, tmp_path: Path) -> None:
    lines = qwenctl(hub, tmp_path, "ls", "qwen3.5-0.8b").stdout.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["quantization", "size", "bits/weight", "on", "this", "machine"],
        ["Q4_0", "6.91", "MB", "4.62", "RAM"],
        ["Q8_0", "12.2", "MB", "8.14", "RAM"],
        ["F32", "45.4", "MB", "30.34", "RAM"],
    ]
    rows = json.loads(qwenctl(hub, tmp_path, "ls", GGUF, "--json").stdout)
    assert [(row["quant"], row["made_here"]) for row in rows] == [("Q4_0", False), ("Q8_0", False), ("F32", False)]
    assert rows[0]["needed_bytes"] == rows[0]["bytes"] + 646_137_856


def test_ls_lists_the_types_a_checkpoint_can_be_quantized_to(hub: FakeHub, tmp_path: Path) -> None:
    rows = json.loads(qwenctl(hub, tmp_path, "ls", SOURCE, "--json").stdout)
    assert [row["quant"] for row in rows] == ["Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"]
    assert all(row["made_here"] for row in rows)
    plan = json.loads(qwenctl(hub, tmp_path, "pull", SOURCE, "--dry-run", "--json").stdout)
    assert plan["type"] == "Q8_0"
    text = sum(tensor["bytes"] for tensor in plan["tensors"] if not tensor["name"].startswith(("v.", "mm.")))
    assert rows[-1]["bytes"] == text


def test_repository_without_model_files_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["x/y"] = Repo({}, "a" * 40, {})
    line, _, code = failure(qwenctl(hub, tmp_path, "pull", "x/y"))
    assert (line, code) == ("x/y has neither GGUF files nor a checkpoint", 66)


def test_pull_without_a_name_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    line, hint, code = failure(qwenctl(hub, tmp_path, "pull"))
    assert (line, code) == ("no model to pull", 2)
    assert hint == "qwenctl pull qwen3.5-35b-a3b, or OWNER/NAME[:QUANT]"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((GGUF, "-hf", "a/b"), f"{GGUF} and -hf a/b are two models"),
        ((f"{GGUF}:Q8_0", "--quantize", "Q4_0"), "--quantize Q4_0 and Q8_0 cannot be used together"),
        ((SOURCE, "--source", "--quantize", "Q4_0"), "--quantize Q4_0 and --source cannot be used together"),
        ((GGUF, "--locked", "x.json"), "--locked and a model name cannot be used together"),
        ((f"{GGUF}:Q8_0", "-o", "x.gguf"), "-o is only for --quantize, and Q8_0 needs no quantizing"),
        (
            (GGUF, "--patience", "soon"),
            "invalid value for '--patience': 'soon' is not a time such as 90, 90s, 5m or 2h",
        ),
    ],
)
def test_contradictory_pull_arguments_are_refused(
    arguments: tuple[str, ...], line: str, hub: FakeHub, tmp_path: Path
) -> None:
    message, hint, code = failure(qwenctl(hub, tmp_path, "pull", *arguments))
    assert (message, code) == (line, 2)
    assert hint
    assert saved(tmp_path) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("-hf", f"{GGUF}:q8_0"),
        ("QWEN3.5-0.8b:Q8-0",),
        (f"hf.co/{GGUF}@q8_0",),
        (f"{GGUF}:Q8_0", "--revision", "COMMIT"),
    ],
)
def test_pull_accepts_every_spelling_of_a_model_name(
    arguments: tuple[str, ...], hub: FakeHub, repos: dict[str, Repo], tmp_path: Path
) -> None:
    name_and_options = [word.replace("COMMIT", repos[GGUF].commit) for word in arguments]
    plan = json.loads(qwenctl(hub, tmp_path, "pull", *name_and_options, "--dry-run", "--json").stdout)
    assert plan["path"] == str(snapshot(tmp_path, repos[GGUF], GGUF) / "Toy-Q8_0.gguf")


# ------------------------------------------------------------------ on a terminal


def pull_terminal(hub: FakeHub, home: Path, *arguments: str, height: int = 24) -> Terminal:
    return Terminal(command("pull", *arguments), home, height=height, **environment(hub, home))


def test_pull_on_a_terminal_asks_which_quantization(hub: FakeHub, repos: dict[str, Repo], tmp_path: Path) -> None:
    with pull_terminal(hub, tmp_path, GGUF) as terminal:
        terminal.wait_for("pull it? [Y/n, or another quantization]")
        assert re.search(r"Q4_0 +6\.91 MB +4\.62 +RAM", terminal.text)
        terminal.send("q4_0\r")
        terminal.wait_for(f"next: qwenctl chat -m {GGUF}:Q4_0")
        assert terminal.exit_code() == 0
    assert (snapshot(tmp_path, repos[GGUF], GGUF) / "Toy-Q4_0.gguf").is_file()


@pytest.mark.parametrize("answer", ["n\r", "\x04"])
def test_declined_pull_downloads_no_model(answer: str, hub: FakeHub, tmp_path: Path) -> None:
    with pull_terminal(hub, tmp_path, GGUF) as terminal:
        terminal.wait_for("pull it?")
        terminal.send(answer)
        assert terminal.exit_code() == 0
    assert saved(tmp_path) == 0
    assert hub.sent == 1 << 16  # the start of one header


def test_yes_option_skips_the_question(hub: FakeHub, tmp_path: Path) -> None:
    with pull_terminal(hub, tmp_path, GGUF, "--yes") as terminal:
        terminal.wait_for("next: qwenctl chat")
        assert "pull it?" not in terminal.text
        assert terminal.exit_code() == 0


def test_each_active_download_has_a_line_and_the_total_never_decreases(tmp_path: Path) -> None:
    for number in range(1, 4):
        write_random(tmp_path / "repo" / f"Toy-Q8_0-{number:05d}-of-00003.gguf", 9_000_000, number)
    with FakeHub({REPO: serve_folder(tmp_path / "repo")}, rate=2e6) as hub:
        with pull_terminal(hub, tmp_path, f"{REPO}:Q8_0") as terminal:
            terminal.wait_for("Toy-Q8_0-00003-of-00003.gguf")
            terminal.wait_for("  downloading", count=3)
            terminal.wait_for("next: qwenctl chat")
            assert terminal.exit_code() == 0
        raw = ANSI.sub(b"", terminal.raw).decode()
    sums = re.findall(r"total .*?(\d+(?:\.\d+)?) (kB|MB) of 27\.0 MB", raw)
    amounts = [float(amount) * (1e3 if unit == "kB" else 1e6) for amount, unit in sums]
    amounts = amounts[next(number for number, amount in enumerate(amounts) if amount < 27e6) :]
    assert amounts == sorted(amounts)
    assert amounts[-1] == 27e6
    # No lines of files are left on the screen. The next command has a path, because random bytes are no model.
    assert "Toy-Q8_0-0000" not in terminal.text.partition("next: ")[0]


def test_ctrl_c_leaves_only_the_error_on_the_terminal(hub: FakeHub, tmp_path: Path) -> None:
    hub.rate = 1e6
    with pull_terminal(hub, tmp_path, f"{GGUF}:Q8_0") as terminal:
        terminal.wait_for("MB of 12.2 MB  downloading")
        terminal.send("\x03")
        assert terminal.exit_code() == 130
        lines = terminal.text.strip().splitlines()
    assert re.fullmatch(r"qwenctl: error: stopped; \S+ .B saved", lines[0])
    assert lines[1:] == ["  hint: the same command resumes from there"]


# ------------------------------------------------------------------ the largest model, from headers alone


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The largest published checkpoint, of zeros. The hashes of its shards are made up; no test checks them."""
    folder = tmp_path_factory.mktemp("large")
    checkpoints.make_sparse(folder, PUBLISHED["397B"], shards=94, tokens=248_077)
    shards = {path.name: path for path in sorted(folder.glob("*.safetensors"))}
    made_up = {
        name: ServedFile(name, path, path.stat().st_size, f"{number:064x}", f"{number:040x}")
        for number, (name, path) in enumerate(shards.items())
    }
    repo = serve_folder(folder, leave_out=shards.keys())
    return Repo({**repo.files, **made_up}, repo.commit, {})


@pytest.mark.slow
def test_largest_model_is_planned_from_its_headers(large: Repo, tmp_path: Path) -> None:
    with FakeHub({LARGE: large}, cdn=True) as hub:
        done = qwenctl(hub, tmp_path, "pull", LARGE, "--quantize", "Q4_K_M", "--dry-run", "--json", "-o", tmp_path)
        assert done.returncode == 0, done.stdout
        plan = json.loads(done.stdout)
        assert plan["source_bytes"] == pytest.approx(806.8e9, rel=0.001)
        assert plan["bytes"] == pytest.approx(245.2e9, rel=0.002)  # with the MTP block and the vision encoder
        assert plan["spool_bytes"] == 50_000_000_000
        assert plan["usual_bytes"] == pytest.approx(1.86e12, rel=0.01)
        assert hub.sent < 60_000_000
        rows = json.loads(qwenctl(hub, tmp_path, "ls", LARGE, "--json").stdout)
    assert {row["quant"]: row["bytes"] for row in rows}["Q4_K_M"] == pytest.approx(244.3e9, rel=0.001)
    assert {row["where"] for row in rows} <= {"RAM", "GPU + RAM", "would page from disk", "does not fit"}
