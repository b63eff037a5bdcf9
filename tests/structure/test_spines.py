"""Call paths are short: few of our own frames, in few files, from chat line to token and from checkpoint to bytes.

Measured on the running program: the function at the end of a path is wrapped to record the stack of each call.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

Stack = list[tuple[str, str]]  # (file, function)

NOTE = """
import json, os, sys
def note(owner, name):
    real = getattr(owner, name)
    def noted(*arguments):
        frame, own = sys._getframe(1), []
        while frame is not None:
            place = os.path.relpath(frame.f_code.co_filename, {root!r})
            if place.split(os.sep)[0] in ("quantize", "qwenctl") and frame.f_code.co_name != "<module>":
                own.append((place, frame.f_code.co_name))
            frame = frame.f_back
        print("SPINE", json.dumps([name, own]), file=sys.stderr, flush=True)
        return real(*arguments)
    setattr(owner, name, noted)
"""
CHAT = """
note(os, "write")
from types import SimpleNamespace
from pathlib import Path
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.interactive.loop import run_chat
from qwenctl.chat.interactive.screen import Screen, make_console
from qwenctl.chat.interactive.state import ChatSetup
from qwenctl.engine.client import Engine
from qwenctl.engine.interface import LoadedEngine
from qwenctl.protocol.load import LoadParams
lines = iter([{question!r}])
def read_line(_):
    try:
        return next(lines)
    except StopIteration:
        raise EOFError
def open_model():
    engine = Engine.start(Path({folder!r}))
    return LoadedEngine(engine, list(engine.load(Path({model!r}), LoadParams()))[-1])
run_chat(ChatSetup(open_model, read_line, Screen(make_console("never")), Conversation(think=False)))
"""
WORKER = """
import llama_cpp.llama_cpp as llama
note(llama, "llama_decode")
note(llama, "llama_sampler_sample")
from qwenctl.engine.worker import start
start().serve()
"""
QUANTIZE = """
note(os, "preadv")
note(os, "pwrite")
from pathlib import Path
from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan
convert(make_plan(Path({toy!r}), Path({folder!r}) / "toy.gguf", QuantizeOptions("Q4_K_M")), 1)
"""


def spines(program: str, requests: bytes = b"", **values: str) -> dict[str, list[Stack]]:
    """The stacks of our own frames, innermost first, at each call of the wrapped functions, by function name.

    A program that is given `requests` is done when it prints GenerationFinished.
    """
    command = [sys.executable, "-c", (NOTE + program).format(root=str(ROOT), **values)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        if requests:
            process.stdin.write(requests)
            process.stdin.flush()
            next(line for line in process.stdout if b"GenerationFinished" in line)
        _, errors = process.communicate(timeout=120)
    noted = [json.loads(line[6:]) for line in errors.decode().splitlines() if line.startswith("SPINE ")]
    assert noted, errors.decode()
    found: dict[str, list[Stack]] = {}
    for name, own in noted:
        found.setdefault(name, []).append([(place, function) for place, function in own])
    return found


def is_short(stacks: list[Stack], frames: int, files: int) -> bool:
    return all(len(stack) <= frames and len({place for place, _ in stack}) <= files for stack in stacks)


def test_call_path_from_chat_line_to_engine_request_is_short(toy_gguf: Path, tmp_path: Path) -> None:
    found = spines(CHAT, question="What is the capital of France?", folder=str(tmp_path), model=str(toy_gguf))
    reader = ("qwenctl/chat/interactive/loop.py", "_talk")  # the frame that holds the typed line
    ask = ("qwenctl/engine/client.py", "stream")
    asked = [stack[: stack.index(reader) + 1] for stack in found["write"] if reader in stack and ask in stack]
    assert asked
    assert is_short(asked, 5, 4)


def test_call_path_from_engine_request_to_token_is_short(toy_gguf: Path) -> None:
    question = {"role": "user", "content": "What is the capital of France?"}
    requests = [["Load", {"path": str(toy_gguf)}], ["Generate", {"messages": [question], "enable_thinking": False}]]
    found = spines(WORKER, b"".join(json.dumps(request).encode() + b"\n" for request in requests))
    assert is_short(found["llama_decode"], 5, 4)
    assert is_short(found["llama_sampler_sample"], 5, 4)


def test_call_path_from_checkpoint_to_output_bytes_is_short(toy: Path, tmp_path: Path) -> None:
    found = spines(QUANTIZE, toy=str(toy), folder=str(tmp_path))
    of_weights = [stack for stack in found["preadv"] + found["pwrite"] if stack[-1][1] == "_run_worker"]
    assert of_weights
    assert is_short(of_weights, 5, 5)


@pytest.mark.parametrize(("frames", "files"), [(2, 9), (9, 1)])
def test_long_call_path_is_found(frames: int, files: int) -> None:
    assert not is_short([[("a.py", "f"), ("b.py", "g"), ("b.py", "h")]], frames, files)
