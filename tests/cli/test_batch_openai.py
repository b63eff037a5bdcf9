"""`qwenctl batch` with records as OpenAI's batch API has them: each is answered as it asks, or says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.batching import OPTIONS, batch, read_lines
from tests.support.paths import DATA

PAINT = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {"type": "object", "properties": {"color": {"enum": ["blue"]}}, "required": ["color"]},
    },
}


def test_openai_records_are_answered_as_they_ask(toy_gguf: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    more: list[dict[str, Any]] = [
        {"id": "zero", "prompt": "Spell cow.", "max_tokens": 0, "mine": [1]},
        {
            "id": "forced",
            "prompt": "Spell cow.",
            "tools": [PAINT],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
        {"id": "banned", "prompt": "Spell cow.", "logit_bias": {str(number): -100 for number in range(300)}},
        {"id": "no", "prompt": "Spell cow.", "reasoning_effort": "none", "stop": ["W", "-O"]},
    ]
    openai = (DATA / "batch" / "openai.jsonl").read_text()
    source.write_text(openai + "".join(json.dumps(one) + "\n" for one in more))
    done = batch(source, "-o", tmp_path / "out.jsonl", "-m", toy_gguf, *OPTIONS, "--no-think")
    assert done.returncode == 3, done.stderr.decode()
    answers = {one["id"]: one for one in read_lines(tmp_path / "out.jsonl")}
    failed = [one["id"] for one in read_lines(tmp_path / "out.errors.jsonl")]
    assert failed == ["tc", "emb", "comp", "resp", "null", "b64"]
    usual = answers.pop("plain")
    assert usual["answer"] == "C-O-W."
    assert (answers["stop"]["answer"], answers["stop"]["finish_reason"]) == ("C", "stop")
    assert (answers["no"]["answer"], answers["no"]["finish_reason"]) == ("C", "stop")
    assert answers["stop"]["usage"]["completion_tokens"] < usual["usage"]["completion_tokens"]
    assert [one["answer"] for one in answers["n2"]["choices"]] == [usual["answer"]] * 2
    assert (answers["zero"]["answer"], answers["zero"]["mine"]) == ("", [1])
    assert answers["zero"]["finish_reason"] == "length"
    assert answers["zero"]["usage"]["completion_tokens"] == 0
    assert "".join(one["token"] for one in answers["lp"]["logprobs"]) == usual["answer"]
    assert all(len(one["top_logprobs"]) == 2 for one in answers["lp"]["logprobs"])
    assert answers["forced"]["tool_calls"] == [{"name": "paint", "arguments": {"color": "blue"}}]
    assert answers["banned"]["answer"] != usual["answer"]
    for same in ("lp", "stopnull", "lb", "ptc", "streamF", "svc", "user_name"):
        assert answers[same]["answer"] == usual["answer"]
    assert f"failed   'tc', {source}:5:1: tool_choice names a function" in done.stderr.decode()
