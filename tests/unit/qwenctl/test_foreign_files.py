"""Any JSON in the place of any part of the program's own files and of replies: taken, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from qwenctl.batch.backends.openai_format import PermanentError, RetryableResponse, parse_response
from qwenctl.batch.records import GenerationParams, Record
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.commands.options.common import CacheType
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import read_object
from qwenctl.hub.local.installed import find_installed_models
from qwenctl.hub.local.lock_file import read_lock
from qwenctl.hub.local.registry import registered_buffers, registered_models, registered_roots
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.plan_file import CACHE_TYPES, MAX_THREADS, from_json, to_json
from qwenctl.protocol.messages import Message
from qwenctl.tune import store
from tests.support.example_plan import EXAMPLE_PLAN
from tests.support.json_values import JSON_VALUES, nested, places, replaced
from tests.support.paths import DATA, TOY
from tests.support.tuned import FOUND

DEEP = [nested(100_000, "["), nested(100_000, "{"), '{"a": ' + nested(500, "[") + "}"]
RECORD = Record("a", 1, (Message("user", "Hi"),), GenerationParams())
PLAN = json.loads((DATA / "expected" / "plan.json").read_text("utf-8"))
SESSION = json.loads((DATA / "expected" / "session.json").read_text("utf-8"))
FILE = {"path": "a.gguf", "size": 5, "sha256": "ab" * 32}
LOCK = {
    "format": 1,
    "models": [
        {
            "repository": "o/n", "commit": "ab" * 20, "quant": "Q8_0", "files": [FILE], "license": "mit", "recipe": "",
            "version": "", "outputs": [],
        }
    ],
}  # fmt: skip
CALL = {"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
REPLY = {
    "choices": [{"message": {"content": "Hi", "reasoning_content": "", "tool_calls": [CALL]}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}
MADE = {"repository": "o/n", "commit": "c", "type_name": "Q8_0", "paths": [str(TOY / "config.json")]}
ENTRY = {"made": MADE, "root": "/none", "spool": "/none"}


def read_session(text: str, folder: Path) -> None:
    (folder / "old").mkdir(exist_ok=True)
    (folder / "old" / "conversation.json").write_text(text, "utf-8", errors="surrogatepass")
    SessionStore(folder).load("old")


def read_lock_file(text: str, folder: Path) -> None:
    (folder / "lock.json").write_text(text, "utf-8")
    read_lock(folder / "lock.json")


def read_reply(text: str, _folder: Path) -> None:
    try:
        parse_response("http://h/v1", 200, {}, text.encode(), RECORD)
    except (PermanentError, RetryableResponse) as error:
        raise QwenctlError(str(error), "", ExitCode.BAD_DATA) from error


def read_plan(text: str, _folder: Path) -> None:
    from_json(text, "plan.json")


KINDS: dict[str, tuple[Any, Callable[[str, Path], None]]] = {
    "plan": (PLAN, read_plan),
    "session": (SESSION, read_session),
    "lock file": (LOCK, read_lock_file),
    "reply": (REPLY, read_reply),
}


@pytest.mark.parametrize("kind", KINDS)
@examples(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_value_is_taken_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    value, read = KINDS[kind]
    folder = tmp_path_factory.mktemp("state")
    read(json.dumps(value), folder)
    place = data.draw(st.sampled_from(places(value)))
    refusals = []
    try:
        read(json.dumps(replaced(value, place, data.draw(JSON_VALUES))), folder)
    except QwenctlError as error:
        refusals.append(error)
    assert all(error.code == ExitCode.BAD_DATA and "\n" not in error.message for error in refusals)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", DEEP)
def test_deeply_nested_file_is_refused_as_bad_data(tmp_path: Path, kind: str, text: str) -> None:
    with pytest.raises(QwenctlError) as caught:
        KINDS[kind][1](text, tmp_path)
    assert caught.value.code == ExitCode.BAD_DATA


@pytest.mark.parametrize("text", [*DEEP, "[]", "", "5", '{"a": "\\ud800"}'])
def test_cache_that_is_no_object_is_empty(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    assert read_object(tmp_path / "a") == {}


# ------------------------------------------------------------------ the registry and what is installed


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program's empty state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "state" / "qwenctl").mkdir(parents=True)
    return tmp_path / "state" / "qwenctl"


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_registry_with_any_line_is_read(state: Path, data: st.DataObject) -> None:
    place, value = data.draw(st.sampled_from(places(ENTRY))), data.draw(JSON_VALUES)
    lines = [*DEEP, json.dumps(replaced(ENTRY, place, value)), json.dumps({"root": str(state)})]
    (state / "models.jsonl").write_text("\n".join(lines))
    assert registered_roots()[-1] == state
    assert all(
        isinstance(value, str)
        for model in registered_models()
        for value in vars(model).values()
        if value != model.paths
    )
    registered_buffers()
    find_installed_models([])


@examples(max_examples=40, deadline=None)
@given(data=st.data())
def test_cached_checkpoint_with_any_config_or_index_is_listed_or_left_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("hub")
    folder = root / "models--o--n" / "snapshots" / ("ab" * 20)
    folder.mkdir(parents=True)
    config = {"architectures": ["Qwen3_5ForCausalLM"], "text_config": {}}
    index = {"weight_map": {"a": "b"}}
    for name, fields in (("config.json", config), ("model.safetensors.index.json", index)):
        made = json.dumps(replaced(fields, data.draw(st.sampled_from(places(fields))), data.draw(JSON_VALUES)))
        (folder / name).write_text(data.draw(st.sampled_from([made, DEEP[0], DEEP[1]])))
    (folder / "a.safetensors").write_bytes(b"")
    find_installed_models([root])


# ------------------------------------------------------------------ values that the engine would abort on


def with_setting(name: str, value: object) -> str:
    fields = json.loads(to_json(EXAMPLE_PLAN))
    fields["settings"][name] = value
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context_tokens", -1), ("context_tokens", 1 << 31), ("threads", -1), ("threads", MAX_THREADS + 1),
        ("batch_tokens", 0), ("micro_batch_tokens", 0), ("micro_batch_tokens", 1 << 40), ("gpu_layers", -2),
        ("cache_type_k", "banana"), ("cache_type_v", ""), ("snapshot_bytes", -1), ("draft_max", -1),
        ("placement", {"devices": ["CUDA0"], "layers": [1.0, 2.0]}), ("placement", {"overrides": [["(", "CPU"]]}),
        ("placement", {"overrides": [["a" * 100_000, "CPU"]]}), ("placement", {"devices": [""]}),
        ("placement", {"devices": ["a"], "layers": [-1.0]}),
    ],
)  # fmt: skip
def test_plan_with_a_value_that_no_option_takes_is_refused(name: str, value: object) -> None:
    with pytest.raises(QwenctlError, match="is not a plan") as caught:
        from_json(with_setting(name, value), "plan.json")
    assert caught.value.code == ExitCode.BAD_DATA


def test_plan_without_a_limit_is_read() -> None:
    assert from_json(to_json(EXAMPLE_PLAN), "plan.json") == EXAMPLE_PLAN
    assert from_json(with_setting("gpu_layers", -1), "plan.json").settings.gpu_layers == -1
    assert set(get_args(CacheType)) == CACHE_TYPES


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_saved_tuning_with_any_value_is_ignored_or_safe(state: Path, toy_gguf: Path, data: st.DataObject) -> None:
    file = store.save_tuning(toy_gguf, FOUND)
    fields = json.loads(file.read_text())
    made = replaced(fields, data.draw(st.sampled_from(places(fields))), data.draw(JSON_VALUES))
    file.write_text(json.dumps(made))
    found = store.apply_tuning(PlacementConstraints(), store.load_tuning(toy_gguf))
    assert 0 <= found.threads <= MAX_THREADS
    assert found.micro_batch >= 0
    assert {found.cache_k, found.cache_v} <= CACHE_TYPES


@pytest.mark.parametrize(
    "changes", [{"cache_k": "banana"}, {"threads": 1 << 20}, {"threads": True}, {"micro_batch": 0}, {"cpu_experts": -1}]
)
def test_saved_tuning_with_a_value_that_no_option_takes_is_ignored(
    state: Path, toy_gguf: Path, changes: dict[str, Any]
) -> None:
    file = store.save_tuning(toy_gguf, FOUND)
    file.write_text(json.dumps({**json.loads(file.read_text()), "changes": changes}))
    assert store.load_tuning(toy_gguf) is None
