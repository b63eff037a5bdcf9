"""Saved JSON files (sessions and plans) of earlier versions are read, and rewritten unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.profile import GIB, Device, Machine
from qwenctl.placement.forecast import Forecast
from qwenctl.placement.plan import MemoryPart, MemoryPlan, Plan
from qwenctl.placement.plan_file import from_json, to_json
from qwenctl.protocol.load import LoadParams, ModelInfo
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, ToolCall
from qwenctl.protocol.placement import Placement
from tests.support.paths import DATA

EXPECTED = DATA / "expected"
SESSION, PLAN = ((EXPECTED / name).read_text("utf-8") for name in ("session.json", "plan.json"))
TALK = Conversation(
    (
        Message("system", "Kurz & größer."),
        Message("user", "a\nb", media=(Media("image", "/p/red.png", "ab" * 32, "red.png", 1),)),
        Message("assistant", "", "hm", (ToolCall("weather", {"city": "Köln", "days": [1, 2.5, None]}),)),
        Message("tool", "{}"),
        Message("assistant", "Rain."),
    ),
    think=False,
    think_budget=7,
    sampling={"temperature": 0.5, "top_k": 20, "seed": None},
    omitted=2,
    summary="About rain.",
)
PLANNED = Plan(
    "toy.gguf",
    Machine(64 * GIB, 60 * GIB, 66.4e9, 8, (Device("CUDA0", "CUDA", "RTX", 24 * GIB, 23 * GIB, 842.4e9),)),
    LoadParams(4096, 8, draft="mtp", placement=Placement(("CUDA0",), (1.0,), (("ffn_.*_exps", "CPU"),), ("h:1",))),
    (
        MemoryPlan("CPU", 64 * GIB, 60 * GIB, (MemoryPart("routed experts", 5, "0-1"),)),
        MemoryPlan("CUDA0", 24 * GIB, 23 * GIB, (MemoryPart("attention", 3),)),
    ),
    Forecast(12.5, 11.0, 300.0, 1.5, "RAM", "CUDA0"),
    ("It fits.",),
    exact=True,
)


def store_with_session(folder: Path, text: str) -> SessionStore:
    """A store whose session "old" has this text as its file."""
    (folder / "old").mkdir(parents=True)
    (folder / "old" / "conversation.json").write_text(text, "utf-8")
    return SessionStore(folder)


def changed(text: str, *path: str | int, to: object) -> str:
    """The same JSON with another value at `path`."""
    fields: Any = json.loads(text)
    inner = fields
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return json.dumps(fields)


def test_saved_session_is_read(tmp_path: Path) -> None:
    session = store_with_session(tmp_path, SESSION).load("old")
    assert session.conversation == TALK
    assert [type(value) for value in session.conversation.sampling.values()] == [float, int, type(None)]
    assert (session.model, session.fingerprint, session.template_sha256) == ("/m/toy.gguf", "f", "t")
    assert (session.created, session.updated) == ("2026-11-01T10:20:30+00:00", "2026-11-02T10:20:30+00:00")


def test_saved_session_is_rewritten_unchanged(tmp_path: Path) -> None:
    store = store_with_session(tmp_path, SESSION)
    loaded = ModelInfo("toy", "qwen35moe", "", 1, 1, 1, 1, fingerprint="f", template_sha256="t")
    opened = store.open("old")
    opened.save(store.load("old").conversation, Path("/m/toy.gguf"), loaded)
    opened.close()
    written = (tmp_path / "old" / "conversation.json").read_text("utf-8")
    assert written == SESSION.replace("2026-11-02T10:20:30+00:00", store.load("old").updated)


def test_session_without_newer_fields_is_read(tmp_path: Path) -> None:
    text = changed(SESSION, "messages", to=[{"role": "user", "content": "Hi", "thinking": ""}])
    assert store_with_session(tmp_path, text).load("old").conversation.messages == (Message("user", "Hi"),)


def test_session_with_unknown_field_is_read(tmp_path: Path) -> None:
    assert store_with_session(tmp_path, changed(SESSION, "note", to="mine")).load("old").conversation == TALK


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("think",), "yes", "Expected `bool`"),
        (("messages", 0, "role"), "nobody", "Invalid enum value"),
        (("messages", 0, "content"), None, "Expected `str`"),
        (("messages", 0, "contents"), "x", "no field 'contents'"),
        (("messages", 1, "media", 0, "at"), "1", "Expected `int`"),
        (("messages", 1, "media", 0, "kind"), "sound", "Invalid enum value"),
        (("messages", 2, "tool_calls", 0, "arguments"), [], "Expected `object`"),
    ],
)
def test_damaged_session_error_names_reason(
    tmp_path: Path, path: tuple[str | int, ...], value: object, reason: str
) -> None:
    store = store_with_session(tmp_path, changed(SESSION, *path, to=value))
    with pytest.raises(QwenctlError, match=f"'old' is damaged: .*{reason}") as caught:
        store.load("old")
    assert caught.value.code == ExitCode.BAD_DATA


def test_saved_plan_is_read_and_rewritten_unchanged() -> None:
    assert from_json(PLAN, "plan.json") == PLANNED
    assert to_json(PLANNED) == PLAN


def test_plan_without_newer_settings_is_read() -> None:
    fields = json.loads(PLAN)
    for name in ("draft_min", "adapts_threads", "extra_buffers"):
        del fields["settings"][name]
    assert from_json(json.dumps(fields), "plan.json") == PLANNED


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("version",), 2, "another version"),
        (("exact",), "no", "Expected `bool`"),
        (("machine", "ram_total"), "64G", "Expected `int`"),
        (("machine", "devices", 0, "speed"), 1, "no field 'speed'"),
        (("settings", "placement", "overrides"), [["x"]], "length 2"),
        (("memories", 0, "parts"), None, "Expected `array`"),
        (("forecast",), {}, "missing required field"),
        (("reasons",), "It fits.", "Expected `array`"),
    ],
)
def test_invalid_plan_error_names_reason(path: tuple[str | int, ...], value: object, reason: str) -> None:
    with pytest.raises(QwenctlError, match=f"plan.json is not a plan .*{reason}") as caught:
        from_json(changed(PLAN, *path, to=value), "plan.json")
    assert caught.value.code == ExitCode.BAD_DATA


@pytest.mark.parametrize("text", ["", "{", "[]", '"version"', "{}", '{"version": 1}'])
def test_plan_from_unrelated_json_is_refused(text: str) -> None:
    with pytest.raises(QwenctlError, match="is not a plan"):
        from_json(text, "plan.json")
