"""`qwenctl batch`: its input formats, its output, its messages and its exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batching import OPTIONS, QUESTIONS, batch, read_lines, short_records, write_lines
from tests.support.fake_server import FakeServer, fake_server
from tests.support.pictures import is_svg
from tests.support.terminal import Terminal

NO_THINK = (*OPTIONS, "--no-think")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


def error_of(*arguments: object, stdin: bytes | None = None) -> tuple[str, str, int]:
    done = batch(*arguments, stdin=stdin)
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    hint = lines[1].removeprefix("  hint: ") if len(lines) > 1 else ""
    return lines[0].removeprefix("qwenctl: error: "), hint, done.returncode


def test_lines_from_a_pipe_are_answered_in_order(toy_gguf: Path) -> None:
    lines = "".join(f"{question['question']}\n" for question in QUESTIONS[:5]).encode()
    done = batch("--lines", "-m", toy_gguf, *NO_THINK, "--select", "answer", "-q", stdin=lines)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [question["answer"] for question in QUESTIONS[:5]]


def test_batch_output_has_all_fields_and_does_not_depend_on_order(toy_gguf: Path, tmp_path: Path) -> None:
    """The same record gives the same hash and answer, whatever records are answered with it."""
    records = short_records(6)
    first, second = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    source = write_lines(tmp_path / "in.jsonl", records)
    done = batch(source, "-o", first, "-m", toy_gguf, *OPTIONS, "-np", 3, "--json", "-q")
    figures = json.loads(done.stdout)
    assert (figures["answered"], figures["failed"], figures["known_before"], figures["parallel"]) == (6, 0, 0, 3)
    assert figures["answer_tokens"] > 0
    write_lines(source, records[::-1])
    batch(source, "-o", second, "-m", toy_gguf, *OPTIONS, "-np", 2, "-q")
    answers = read_lines(first)
    assert answers == read_lines(second)[::-1]
    for number, answer in enumerate(answers):
        assert list(answer) == ["id", "answer", "thinking", "tool_calls", "finish_reason", "usage", "hash"]
        assert (answer["answer"], answer["finish_reason"]) == (QUESTIONS[number]["answer"], "stop")
        assert bool(answer["thinking"]) == bool(number % 2)
    header, *stats = read_lines(tmp_path / "one.stats.jsonl")
    assert header["batch"]["settings"]["--temperature"] == 0
    assert [(line["id"], line["hash"]) for line in stats] == [(line["id"], line["hash"]) for line in answers]
    assert all(line["generate_s"] > 0 for line in stats)
    assert sorted(path.name for path in tmp_path.glob("one*")) == ["one.jsonl", "one.stats.jsonl"]


def test_sampled_answers_depend_only_on_seed_and_record(toy_gguf: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", short_records(8))
    sampled = ("-m", toy_gguf, "-t", 1, "-c", 512, "--temp", 2, "--top-k", 50, "-n", 20, "-q")
    outputs = []
    for name, options in (("a", ("-np", 2)), ("b", ("-np", 5)), ("c", ("-np", 5, "--seed", 1))):
        path = tmp_path / f"{name}.jsonl"
        assert batch(source, "-o", path, *sampled, *options).returncode == 0
        outputs.append([(line["answer"], line["thinking"]) for line in read_lines(path)])
    assert outputs[0] == outputs[1] != outputs[2]


def test_files_and_csv_fields_fill_the_prompt_template(toy_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("cow")
    names = f"{tmp_path}/a.md\0{tmp_path}/none.md\0".encode()
    done = batch("--files", "--null", "--prompt", "Spell {file}.", "-m", toy_gguf, *NO_THINK, "-q", stdin=names)
    assert done.returncode == 3
    [line] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (line["id"], line["answer"]) == (f"{tmp_path}/a.md", "C-O-W.")
    assert b"none.md: no such file" in done.stderr
    done = batch(
        "--csv", "--prompt", "Spell {text}.", "--keep", "n", "-m", toy_gguf, *NO_THINK, "-q", stdin=b"n,text\n1,cow\n"
    )
    [line] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (line["n"], line["answer"]) == ("1", "C-O-W.")


def test_batch_dry_run_counts_records_and_writes_nothing(toy_gguf: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", short_records(30))
    with source.open("a") as file:
        file.write("nonsense\n")
    done = batch(source, "-o", tmp_path / "out.jsonl", "--dry-run", "--json", "-m", toy_gguf, *OPTIONS)
    assert done.returncode == 3
    figures = json.loads(done.stdout)
    assert (figures["records"], figures["bad"], figures["tried"]) == (30, 1, 8)
    assert 400 < figures["prompt_tokens"] < 1500
    assert figures["seconds"] > 0
    assert f"{source}:31:1: invalid JSON".encode() in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_limit_and_sample_select_records(server: FakeServer, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": str(number)} for number in range(100)])

    def chosen(*options: object) -> list[str]:
        done = batch(source, "--endpoint", server.url, "-q", "--select", "answer", *options)
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert chosen("--limit", 3) == ["0", "1", "2"]
    sample = chosen("--sample", 10, "--seed", 5)
    assert len(set(sample)) == 10
    assert sample == sorted(sample, key=int) == chosen("--sample", 10, "--seed", 5) != chosen("--sample", 10)


def test_order_done_writes_answers_as_they_finish(server: FakeServer, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "late [500 500 ok]"}, {"prompt": "b"}, {"prompt": "c"}])
    for order, last in (("input", "c"), ("done", "late [500 500 ok]")):
        server.attempts.clear()
        done = batch(source, "--endpoint", server.url, "--order", order, "-q", "--select", "answer")
        assert json.loads(done.stdout.splitlines()[-1]) == last


@pytest.mark.parametrize(
    ("arguments", "line", "hint", "code"),
    [
        (["--lines", "--csv"], "--lines and --csv cannot be used together", "IN has only one format", 2),
        (["--files"], "--files needs --prompt", "--prompt 'Summarize: {file}'", 2),
        (["--csv", "--null", "--prompt", "x"], "--null and --csv cannot be used together", "CSV is made of lines", 2),
        (["--prompt", "{a.b}"], "--prompt is not a template: {a.b} is not the name of a field",
         "{name} stands for the field of that name, {{ and }} for braces", 2),
        (["--plot", "x.png"], "--plot x.png: only SVG is supported", "--plot x.svg", 2),
        (["--keep", "answer"], "--keep answer: answers already have a field of that name",
         "it has: id, answer, thinking, tool_calls, finish_reason, usage, hash", 2),
        (["--select", "answer", "--format", "openai"], "--select and --format cannot be used together",
         "leave one of them out", 2),
        (["--retry-errors"], "--retry-errors: standard output cannot be resumed", "-o OUT.jsonl", 2),
        (["nosuch.jsonl"], "nosuch.jsonl: no such file or directory", "", 66),
        ([], "stdin has no records", 'a record is a line such as {"prompt": "…"}', 65),
        (["-np", "0x"], "invalid value for '-np' / '--parallel': '0x' is not a whole number",
         "qwenctl batch --help", 2),
    ],
)  # fmt: skip
def test_batch_error_is_one_line_with_a_hint(
    arguments: list[str], line: str, hint: str, code: int, server: FakeServer
) -> None:
    assert error_of(*arguments, "--endpoint", server.url) == (line, hint, code)


def test_missing_model_and_folder_input_are_refused_with_a_hint(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "x"}])
    assert error_of(source)[0].startswith("no model: -m takes a GGUF file")
    assert error_of(tmp_path)[:2] == (
        f"{tmp_path} is a folder",
        f"find {tmp_path} -type f | qwenctl batch --files --prompt 'Summarize: {{file}}'",
    )


def test_batch_ends_with_a_summary_and_a_plot(server: FakeServer, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": str(number)} for number in range(20)])
    plot = tmp_path / "out.svg"
    done = batch(source, "-o", tmp_path / "out.jsonl", "--endpoint", server.url, "--plot", plot)
    summary = done.stderr.decode()
    assert "records  20 answered, 0 failed" in summary
    assert is_svg(plot.read_text())


def test_batch_shows_progress_on_a_terminal(server: FakeServer, tmp_path: Path) -> None:
    prompts = [f"{number} [500 500 ok]" for number in range(12)]
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in prompts])
    command = [sys.executable, "-m", "qwenctl", "batch", source, "-o", tmp_path / "out", "--endpoint", server.url]
    with Terminal([str(part) for part in [*command, "-np", "2"]], tmp_path) as terminal:
        terminal.wait_for("of 12 done")
        terminal.wait_for("12 answered, 0 failed")
