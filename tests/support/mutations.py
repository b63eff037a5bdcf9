"""Mutate checkpoints, GGUF files and what the program saves, and count how often commands keep their promises.

A command must end with a documented exit code and at most one error line, never with a traceback or an internal error.
If `quantize` ends with 0, its file has all tensors of the unharmed checkpoint in their shapes, or a note says
otherwise; one that continues after a damaged journal has the same bytes as without a stop.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from quantize.convert import ConversionProgress, convert
from quantize.errors import Interrupted
from quantize.plan import QuantizeOptions, make_plan
from qwenctl import __version__
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import ExitCode
from qwenctl.protocol.messages import Message
from tests.support import checkpoints
from tests.support.chat_sessions import LOADED
from tests.support.cli_runner import Result, run
from tests.support.gguf_files import converted, tensors
from tests.support.paths import DATA, TOY
from tests.support.qwen35_layout import Model

_SMALL = Model(experts=2, width=64, shared_width=64, hidden=64, vision=None)
_JSON = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json")
_VALUES = (None, 0, -1, 2**40, 1.5, "x", "", [], {}, True, [1, "a"], "0" * 300)
_ERROR = re.compile(r"qwenctl: error: [^\n]*\n(  hint: [^\n]*\n)?\Z")


def flip_byte(data: bytes, chance: random.Random) -> bytes:
    """Change one byte, in the first 4,000 more often than elsewhere."""
    at = chance.randrange(min(len(data), chance.choice([4000, len(data)])))
    return data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]


def truncate(data: bytes, chance: random.Random) -> bytes:
    """Cut the end off."""
    return data[: chance.randrange(len(data))]


def put_number(data: bytes, chance: random.Random) -> bytes:
    """Replace four or eight bytes near the start by a number that a length or count could be."""
    size = chance.choice([4, 8])
    at = chance.randrange(max(1, min(len(data), 4000) - size))
    number = chance.choice([0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1]) % 2 ** (8 * size)
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


def change_json(data: bytes, chance: random.Random) -> bytes:
    """Remove a field at any depth, give it another value, or rename it."""
    value = json.loads(data)
    place: Any = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys)
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.3:
            break
        place = inner
    action = chance.randrange(3)
    if action == 0:
        del place[key]
    elif action == 1 or not isinstance(place, dict):
        place[key] = chance.choice(_VALUES)
    else:
        place[f"{key}x"] = place.pop(key)
    return json.dumps(value).encode()


def change_header(data: bytes, chance: random.Random) -> bytes:
    """Change a field of a safetensors header."""
    length = int.from_bytes(data[:8], "little")
    header = change_json(data[8 : 8 + length], chance)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


Mutation = Callable[[bytes, random.Random], bytes]
_BINARY: tuple[Mutation, ...] = (flip_byte, truncate, put_number)


def problem(done: Result) -> str:
    """What is wrong with how a command ended; "" if nothing is."""
    text = done.stderr.decode(errors="replace")
    if "Traceback" in text or "internal error" in text or done.returncode == ExitCode.BUG:
        return f"exit code {done.returncode}: {text[-300:]}"
    if done.returncode not in set(ExitCode):
        return f"the undocumented exit code {done.returncode}"
    if done.returncode and (not _ERROR.search(text) or text.count("qwenctl: error: ") != 1):
        return f"exit code {done.returncode} without one error line: {text[-300:]}"
    return ""


def try_checkpoint(source: Path, folder: Path, shapes: dict[str, Any], chance: random.Random) -> str:
    """Mutate a file of a copy of `source` and quantize it; what did not hold, or ""."""
    copy, output = folder / "copy", folder / "out.gguf"
    shutil.copytree(source, copy)
    shards = sorted(path.name for path in copy.glob("*.safetensors"))
    name = chance.choice([*_JSON, *_JSON, *shards])
    mutation = chance.choice([change_json, *_BINARY] if name in _JSON else [change_header, change_header, *_BINARY])
    (copy / name).write_bytes(mutation((copy / name).read_bytes(), chance))
    done = run("quantize", str(copy), "-o", str(output), "--type", "F32", "-t", "1")
    found = problem(done)
    if not found and not done.returncode:
        made = {tensor: entry[1] for tensor, entry in tensors(output).items()}
        if made != shapes and b"note: " not in done.stderr and name != "config.json":
            found = "another result, and no note"
    return f"quantize after {mutation.__name__} of {name}: {found}" if found else ""


def try_gguf(model: Path, folder: Path, chance: random.Random) -> str:
    """Mutate a copy of the GGUF file `model` and plan it; what did not hold, or ""."""
    mutation, path = chance.choice(_BINARY), folder / "x.gguf"
    path.write_bytes(mutation(model.read_bytes(), chance))
    found = problem(run("plan", str(path), "--gpu-memory", "1G", "--ram", "8G"))
    return f"plan after {mutation.__name__}: {found}" if found else ""


def try_journal(source: Path, stopped: Path, clean: bytes, folder: Path, chance: random.Random) -> str:
    """Mutate the journal in a copy of the folder of a `stopped` conversion, and continue; what did not hold, or ""."""
    mutation, output = chance.choice(_BINARY), folder / "out.gguf"
    shutil.copytree(stopped, folder, dirs_exist_ok=True)
    journal = folder / "out.gguf.journal"
    journal.write_bytes(mutation(journal.read_bytes(), chance))
    done = run("quantize", str(source), "-o", str(output), "--type", "F32", "-t", "1")
    found = problem(done)
    if not found and not done.returncode and output.read_bytes() != clean:
        found = "another result"
    return f"resume after {mutation.__name__} of the journal: {found}" if found else ""


def try_imatrix(folder: Path, chance: random.Random) -> str:
    """Mutate an importance matrix and plan with it; what did not hold, or ""."""
    mutation, path = chance.choice(_BINARY), folder / "imatrix.gguf"
    path.write_bytes(mutation((DATA / "expected" / "imatrix.gguf").read_bytes(), chance))
    done = run(
        "quantize", str(TOY), "-o", str(folder / "x.gguf"), "--type", "Q4_K_M", "--imatrix", str(path), "--dry-run"
    )
    return f"quantize after {mutation.__name__} of the imatrix: {found}" if (found := problem(done)) else ""


def try_session(folder: Path, chance: random.Random) -> str:
    """Mutate a saved conversation, list it and show it; what did not hold, or ""."""
    mutation = chance.choice([change_json, change_json, *_BINARY])
    store = SessionStore(folder / "qwenctl" / "sessions")
    opened = store.open("one")
    opened.save(Conversation((Message("user", "Hi"), Message("assistant", "Hello", "Hm"))), Path("m.gguf"), LOADED)
    opened.close()
    saved = store.state_file("one").with_name("conversation.json")
    saved.write_bytes(mutation(saved.read_bytes(), chance))
    with patch.dict(os.environ, {"XDG_DATA_HOME": str(folder)}):
        found = problem(run("sessions")) or problem(run("sessions", "show", "one"))
    return f"sessions after {mutation.__name__}: {found}" if found else ""


def _stop_conversion(source: Path, folder: Path) -> Path:
    """Begin the conversion of `source` to `out.gguf` in `folder`, which stops after a few tensors at most."""

    def stop(progress: ConversionProgress) -> None:
        if progress.done_bytes:
            raise KeyboardInterrupt

    folder.mkdir()
    plan = make_plan(source, folder / "out.gguf", QuantizeOptions("F32", tool_version=__version__))
    with suppress(Interrupted):
        convert(plan, 1, stop)
    assert (folder / "out.gguf.journal").exists()
    return folder


def run_mutations(count: int, seed: int) -> list[str]:
    """Try `count` mutations; what did not hold, one line each, with the seed that repeats it."""
    failures = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source = checkpoints.make(root / "model", _SMALL, shards=2)
        converted(source, root / "good.gguf", "F32")
        shapes = {tensor: entry[1] for tensor, entry in tensors(root / "good.gguf").items()}
        stopped = _stop_conversion(source, root / "stopped")
        (root / "clean").mkdir()
        converted(source, root / "clean" / "out.gguf", "F32", tool_version=__version__)
        clean = (root / "clean" / "out.gguf").read_bytes()
        folder = root / "one"
        kinds: list[Callable[[random.Random], str]] = [
            lambda chance: try_gguf(root / "good.gguf", folder, chance),
            lambda chance: try_journal(source, stopped, clean, folder, chance),
            lambda chance: try_imatrix(folder, chance),
            lambda chance: try_session(folder, chance),
            *[lambda chance: try_checkpoint(source, folder, shapes, chance)] * 4,
        ]
        for number in range(seed, seed + count):
            folder.mkdir()
            found = kinds[number % len(kinds)](random.Random(number))
            failures += [f"--seed {number} --count 1: {found}"] if found else []
            shutil.rmtree(folder)
    return failures
