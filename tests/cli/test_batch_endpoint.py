"""A batch on HTTP servers: errors are retried, and no answer is lost or changed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from qwenctl.batch.backends.openai_client import completions_url
from qwenctl.errors import ExitCode
from tests.support.batching import OPTIONS, QUESTIONS, batch, read_lines, short_records, write_lines
from tests.support.fake_server import FakeServer, fake_server


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


def records(*prompts: str) -> list[dict[str, str]]:
    return [{"id": f"r{number}", "prompt": prompt} for number, prompt in enumerate(prompts)]


def test_transient_server_errors_are_retried(server: FakeServer, tmp_path: Path) -> None:
    troubles = ["a [429 ok]", "b [500 503 ok]", "c [half ok]", "d [nonsense ok]", "e [429 429 half 500 ok]", "f", "g"]
    source, output = write_lines(tmp_path / "in.jsonl", records(*troubles)), tmp_path / "out.jsonl"
    done = batch(source, "-o", output, "--endpoint", server.url, "-np", 3, "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    assert [(line["id"], line["answer"]) for line in read_lines(output)] == [
        (f"r{number}", prompt) for number, prompt in enumerate(troubles)
    ]
    attempts = {line["id"]: line["attempts"] for line in read_lines(tmp_path / "out.stats.jsonl")[1:]}
    assert attempts == {"r0": 2, "r1": 3, "r2": 2, "r3": 2, "r4": 5, "r5": 1, "r6": 1}
    assert server.most_at_once <= 3


def test_timed_out_request_is_retried(server: FakeServer, tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", records("a [hang ok]", "b")), tmp_path / "out.jsonl"
    done = batch(source, "-o", output, "--endpoint", server.url, "--timeout", 1, "-q")
    assert done.returncode == 0, done.stderr.decode()
    assert [line["answer"] for line in read_lines(output)] == ["a [hang ok]", "b"]


def test_failed_record_does_not_stop_the_batch(server: FakeServer, tmp_path: Path) -> None:
    prompts = ["a [400]", "b [500]", *map(str, range(30))]
    source, output = write_lines(tmp_path / "in.jsonl", records(*prompts)), tmp_path / "out.jsonl"
    done = batch(source, "-o", output, "--endpoint", server.url, "-np", 2, "-q")
    assert done.returncode == ExitCode.SOME_FAILED
    assert [line["answer"] for line in read_lines(output)] == prompts[2:]
    errors = {line["id"]: line["error"] for line in read_lines(tmp_path / "out.errors.jsonl")}
    assert errors["r0"]["message"].endswith("400 (not now)")
    assert errors["r1"]["message"].endswith("500 (not now) (6 attempts)")


def test_unavailable_server_ends_the_batch_which_can_resume(server: FakeServer, tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", records("a", "b [503]")), tmp_path / "out.jsonl"
    done = batch(source, "-o", output, "--endpoint", server.url, "-np", 1, "--patience", 2, "-q")
    assert done.returncode == ExitCode.NETWORK
    first, hint = done.stderr.decode().splitlines()
    assert "503 (not now); 1 of 2 records are done" in first
    assert hint == "  hint: the same command resumes; raise --patience to wait longer"
    write_lines(source, records("a", "b [503 ok]"))
    again = batch(source, "-o", output, "--endpoint", server.url, "-q", "--resume", "force")
    assert again.returncode == 0, again.stderr.decode()
    assert [line["answer"] for line in read_lines(output)] == ["a", "b [503 ok]"]
    assert server.attempts["a"] == 1


@pytest.mark.parametrize(("how", "code"), [("[401]", ExitCode.NO_PERMISSION), ("nobody", ExitCode.NETWORK)])
def test_rejected_key_or_unreachable_server_ends_the_batch(
    server: FakeServer, tmp_path: Path, how: str, code: ExitCode
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    source = write_lines(tmp_path / "in.jsonl", records(f"a {how}"))
    url = closed if how == "nobody" else server.url
    done = batch(source, "-o", tmp_path / "out.jsonl", "--endpoint", url, "--patience", 1, "-q")
    assert done.returncode == code


def test_records_are_divided_among_several_servers(server: FakeServer, tmp_path: Path) -> None:
    with fake_server() as other:
        source = write_lines(tmp_path / "in.jsonl", records(*map(str, range(60))))
        output = tmp_path / "out.jsonl"
        done = batch(source, "-o", output, "--endpoint", server.url, "--endpoint", f"{other.url}/v1/", "-np", 2, "-q")
        assert done.returncode == 0
        assert [line["answer"] for line in read_lines(output)] == list(map(str, range(60)))
        assert min(len(server.bodies), len(other.bodies)) > 0
        assert len(server.bodies) + len(other.bodies) == 60


def test_request_body_has_the_fields_and_options_of_the_record(server: FakeServer, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    record = {"prompt": "x", "system": "s", "temperature": 0.5, "max_tokens": 7, "think": False, "tools": tools}
    source = write_lines(tmp_path / "in.jsonl", [record, {"prompt": "y", "json_schema": {"type": "integer"}}])
    batch(
        source, "--endpoint", server.url, "-m", "some/model", "--seed", 4, "--top-p", 0.9, "-q",
        QWENCTL_BATCH_API_KEY="secret",
    )  # fmt: skip
    first, second = sorted(server.bodies, key=lambda body: len(body["messages"]), reverse=True)
    assert first["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]
    assert (first["model"], first["temperature"], first["top_p"], first["max_tokens"]) == ("some/model", 0.5, 0.9, 7)
    assert first["chat_template_kwargs"] == {"enable_thinking": False}
    assert first["tools"] == tools
    assert second["response_format"]["json_schema"]["schema"] == {"type": "integer"}
    assert isinstance(second["seed"], int)
    assert first["seed"] != second["seed"]
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}


def test_openai_format_output_matches_the_batch_api(server: FakeServer, tmp_path: Path) -> None:
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [
        {"role": "user", "content": "hi"}]}}  # fmt: skip
    done = batch("-", "--endpoint", server.url, "--format", "openai", "-q", stdin=json.dumps(asked).encode())
    [line] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("a", None, 200)
    [choice] = line["response"]["body"]["choices"]
    assert choice["message"] == {"role": "assistant", "content": "hi", "reasoning_content": "hm"}
    assert choice["finish_reason"] == "stop"
    assert line["response"]["body"]["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://a:1", "http://a:1/v1/chat/completions"),
        ("http://a:1/", "http://a:1/v1/chat/completions"),
        ("http://a/v1", "http://a/v1/chat/completions"),
        ("https://a/x/v1/", "https://a/x/v1/chat/completions"),
        ("http://a/v1/chat/completions", "http://a/v1/chat/completions"),
    ],
)
def test_completions_url_accepts_an_endpoint_with_or_without_path(given: str, url: str) -> None:
    assert completions_url(given) == url


@contextmanager
def llama_server(model: Path) -> Iterator[str]:
    """The URL of a running llama-server on a free port."""
    program = shutil.which("llama-server")
    assert program is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "-m", str(model), "--port", str(port), "-np", "4", "-c", "2048", "-t", "1", "--no-webui"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while time.monotonic() < end:
            try:
                httpx2.get(f"{url}/health", timeout=5).raise_for_status()
                break
            except httpx2.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(shutil.which("llama-server") is None, reason="no llama-server here")
def test_llama_server_gives_the_answers_of_the_engine(toy_gguf: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", short_records(20))
    with llama_server(toy_gguf) as url:
        done = batch(source, "-o", tmp_path / "theirs.jsonl", "--endpoint", url, *OPTIONS, "-q", "-n", 100)
        assert done.returncode == 0, done.stderr.decode()
    theirs = [line["answer"] for line in read_lines(tmp_path / "theirs.jsonl")]
    assert theirs == [question["answer"] for question in QUESTIONS[:20]]
