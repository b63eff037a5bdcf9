"""Call paths are short: from chat line to token, from batch record to output line, from tensor to bytes or device.

Measured on the running program. For the depth of a path, the function at its end is wrapped to record the stack of each
call; for the functions along a path, every call of a function of our own is recorded.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# These tests run real programs.
pytestmark = pytest.mark.slow

Place = tuple[str, str]  # (file, function)
Stack = list[Place]

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
PLAN = """
import qwenctl.placement.engine_args as engine_args, qwenctl.placement.layer_split as layer_split
note(layer_split, "pack_experts")
note(engine_args, "overrides")
from qwenctl.cli import main
main(["plan", {model!r}, "--gpu-memory", "8G"])
"""
LOAD = """
import qwenctl.engine.model as model
note(model, "apply_placement")
from qwenctl.engine.worker import start
start().serve()
"""

# Calls `noticed(place, frame)` for each call of our own functions, in every thread, except comprehensions.
CALLS = """
import json, os, sys, threading
own = tuple(os.path.join({root!r}, package, "") for package in ("quantize", "qwenctl"))
def profile(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(own):
        place = os.path.relpath(code.co_filename, {root!r}), code.co_qualname.replace(".<locals>", "")
        if "<" not in place[1]:
            noticed(place, frame)
found = dict()
def tell():
    sys.setprofile(None)
    print("PLACES", json.dumps(list(found)), file=sys.stderr, flush=True)
"""
TOUCHED = """
is_on = False
def noticed(place, frame):
    global is_on
    line = frame.f_locals.get("line", b"")
    is_on = is_on or (place[1] == "_understood" and line.startswith(b'["Generate"'))
    if is_on and place[0].startswith(os.path.join("qwenctl", "engine")):
        found[place] = True
    if is_on and place[1] == "EventWriter._write" and line.startswith(b'["TextDelta"'):
        tell()
        os._exit(0)
threading.setprofile(profile)
sys.setprofile(profile)
from qwenctl.engine.worker import start
start().serve()
"""
ROOMS = """
def noticed(place, frame):
    code, values = frame.f_code, frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if place not in found and any({word!r} in repr(values[name]) for name in names if name not in ("self", "cls")):
        found[place] = True
from qwenctl.cli import main
threading.setprofile(profile)
sys.setprofile(profile)
main(["batch", {source!r}, "-o", {output!r}, "-m", {model!r}, "-n", "4"])
tell()
"""


def request_lines(model: Path) -> list[bytes]:
    """Requests that load `model` and ask it a question."""
    question = {"role": "user", "content": "What is the capital of France?"}
    requests = [["Load", {"path": str(model)}], ["Generate", {"messages": [question], "enable_thinking": False}]]
    return [json.dumps(request).encode() + b"\n" for request in requests]


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


def places(errors: str) -> list[Place]:
    """The functions that a program has recorded."""
    line = next((line for line in errors.splitlines() if line.startswith("PLACES ")), None)
    assert line, errors
    return [(file, function) for file, function in json.loads(line[7:])]


def is_short(stacks: list[Stack], frames: int, files: int) -> bool:
    return all(len(stack) <= frames and len({place for place, _ in stack}) <= files for stack in stacks)


def test_call_path_from_chat_line_to_engine_request_is_short(toy_gguf: Path, tmp_path: Path) -> None:
    found = spines(CHAT, question="What is the capital of France?", folder=str(tmp_path), model=str(toy_gguf))
    reader = ("qwenctl/chat/interactive/loop.py", "_run_turns")  # the frame that holds the typed line
    ask = ("qwenctl/engine/client.py", "stream")
    asked = [stack[: stack.index(reader) + 1] for stack in found["write"] if reader in stack and ask in stack]
    assert asked
    assert is_short(asked, 5, 4)


def test_call_path_from_engine_request_to_token_is_short(toy_gguf: Path) -> None:
    found = spines(WORKER, b"".join(request_lines(toy_gguf)))
    assert is_short(found["llama_decode"], 5, 4)
    assert is_short(found["llama_sampler_sample"], 5, 4)


def test_call_path_from_checkpoint_to_output_bytes_is_short(toy: Path, tmp_path: Path) -> None:
    found = spines(QUANTIZE, toy=str(toy), folder=str(tmp_path))
    of_weights = [stack for stack in found["preadv"] + found["pwrite"] if stack[-1][1] == "_run_worker"]
    assert of_weights
    assert is_short(of_weights, 5, 5)


def test_call_path_from_expert_to_its_device_is_short(toy_gguf: Path) -> None:
    found = spines(PLAN, model=str(toy_gguf))
    command = ("qwenctl/commands/plan.py", "plan_command")
    for stack in found["pack_experts"] + found["overrides"]:
        assert is_short([stack[: stack.index(command) + 1]], 7, 3)
    placed = spines(LOAD, b"".join(request_lines(toy_gguf)))
    assert is_short(placed["apply_placement"], 5, 2)


def test_chat_line_to_first_token_calls_few_functions(toy_gguf: Path) -> None:
    command = [sys.executable, "-c", (CALLS + TOUCHED).format(root=str(ROOT))]
    load, generate = request_lines(toy_gguf)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(load)
        process.stdin.flush()
        next(line for line in process.stdout if b"ModelInfo" in line)
        process.stdin.write(generate)
        process.stdin.flush()
        touched = places(process.stderr.read().decode())  # the program ends by itself
    assert ("qwenctl/engine/generation/generate.py", "generate") in touched
    assert len(touched) <= 72, touched
    assert len({file for file, _ in touched}) <= 17  # one of them asks the process that the template runs in


def test_batch_record_passes_through_few_functions(toy_gguf: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "a", "prompt": "Where is Zanzibar?"}\n')
    values = {"word": "Zanzibar", "source": str(source), "output": str(output), "model": str(toy_gguf)}
    command = [sys.executable, "-c", (CALLS + ROOMS).format(root=str(ROOT), **values)]
    done = subprocess.run(command, capture_output=True, timeout=300, stdin=subprocess.DEVNULL)
    assert json.loads(output.read_text())["id"] == "a", done.stderr.decode()
    rooms = places(done.stderr.decode())
    assert ("qwenctl/batch/output/formats.py", "render") in rooms
    assert len(rooms) <= 20, rooms
    assert len({file for file, _ in rooms}) <= 11


@pytest.mark.parametrize(("frames", "files"), [(2, 9), (9, 1)])
def test_long_call_path_is_found(frames: int, files: int) -> None:
    assert not is_short([[("a.py", "f"), ("b.py", "g"), ("b.py", "h")]], frames, files)
