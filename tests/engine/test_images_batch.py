"""Images in batches: answers match those of single requests, and invalid images fail alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwenctl.engine.client import Engine
from qwenctl.protocol.batch import BatchStarted, RecordDone, RecordFailed, StartBatch, SubmitRequest
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.media import VisionSettings
from qwenctl.protocol.messages import Message
from tests.support.batching import GREEDY, OPTIONS, batch, read_lines, write_lines
from tests.support.paths import DATA
from tests.support.pictures import BLACK, GREEN, QUESTIONS, RED, media, uri

WHAT = "What is in the picture?"


def openai_request(key: str, url: str, text: str = WHAT, kind: str = "image_url") -> dict[str, Any]:
    parts = [{"type": kind, kind: {"url": url}}, {"type": "text", "text": text}]
    return {"custom_id": key, "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": parts}]}}  # fmt: skip


def test_image_batch_has_the_expected_answers_and_errors(seeing_gguf: Path, tmp_path: Path) -> None:
    """Images by path and data URI, in OpenAI's and the short format, mixed with text; three images are invalid."""
    records = []
    for number, one in enumerate(QUESTIONS):
        path = DATA / one["image"]
        url = str(path) if number % 2 else uri(path)
        record = openai_request(f"r{number}", url, one["question"])
        records.append(record if number % 3 else {"id": f"r{number}", "messages": record["body"]["messages"]})
    records.append({"id": "text", "prompt": "What is the capital of France?", "think": False})
    (tmp_path / "text.png").write_bytes(b"no picture")
    (tmp_path / "cut.png").write_bytes(RED.read_bytes()[:-100])
    records += [openai_request("bad", str(tmp_path / "text.png")), openai_request("cut", str(tmp_path / "cut.png"))]
    records.append(openai_request("url", "http://127.0.0.1:1/a.png"))
    out = tmp_path / "out.jsonl"
    done = batch(write_lines(tmp_path / "in.jsonl", records), "-o", out, "-m", seeing_gguf, *OPTIONS, "--parallel", "3")
    assert done.returncode == 3, done.stderr
    answers = {one["id"]: one.get("answer", "").strip() for one in read_lines(out)}
    assert answers == {
        **{f"r{number}": one["answer"] for number, one in enumerate(QUESTIONS)},
        "text": "The capital of France is Paris.",
    }
    failed = {one["id"]: one["error"]["message"] for one in read_lines(tmp_path / "out.errors.jsonl")}
    assert failed["bad"].endswith("text.png is neither an image nor a video")
    assert failed["cut"] == "cut.png is damaged (image file is truncated)"
    assert failed["url"] == "http://127.0.0.1:1/a.png is not downloaded without --allow-url"
    assert len(failed) == 3


def test_image_records_do_not_affect_each_other(seeing_gguf: Path, tmp_path: Path) -> None:
    """Answers and token counts are the same in parallel and alone, with and without shared prefixes."""
    system = Message("system", "You are a helpful assistant. " * 8)
    paths = [RED, BLACK, None, RED, GREEN, None]
    [mmproj] = seeing_gguf.parent.glob("mmproj*")

    def record(number: int, path: Path | None) -> SubmitRequest:
        turn = Message("user", WHAT, media=(media(path),)) if path else Message("user", "What is 2 + 3?")
        return SubmitRequest(number, (system, turn), enable_thinking=False, sampling=GREEDY)

    found = []
    with Engine.start(tmp_path) as engine:
        list(engine.load(seeing_gguf, LoadParams(context_tokens=256, threads=1)))
        engine.configure_vision(VisionSettings(str(mmproj)))
        for parallel, shares in ((4, True), (4, False), (1, False)):
            engine.send(StartBatch(LoadParams(context_tokens=512, threads=1), parallel, share_prefixes=shares))
            assert any(isinstance(engine.receive(60), BatchStarted) for _ in range(10))
            for number, path in enumerate(paths):
                engine.send(record(number, path))
            ended: dict[int, RecordDone | RecordFailed] = {}
            while len(ended) < len(paths):
                event = engine.receive(60)
                if isinstance(event, RecordDone | RecordFailed):
                    ended[event.request_id] = event
            found.append(ended)
    output = [
        [(one.text, one.usage.prompt_tokens, one.usage.context_used) for _, one in sorted(each.items())]
        for each in found
    ]
    assert output[0] == output[1] == output[2]
    assert [color in text for color, (text, *_) in zip(("red", "black"), output[0], strict=False)] == [True, True]
    assert any(one.usage.cached_tokens for one in found[0].values())
