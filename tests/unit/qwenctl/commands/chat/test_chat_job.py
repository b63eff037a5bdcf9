"""What a chat is asked for, as a value: a model, a conversation that goes on, a prefix, functions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenctl.chat.build_request import AnswerLimits
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.commands.chat.chat_job import ChatRequest, load_tools, make_chat_request, with_prefix, with_tools
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.paths import sessions_folder
from qwenctl.placement.constraints import LoadRequest
from tests.support.chat_sessions import LOADED


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def job(model: Path | None, resume: str | None = None, *, saves: bool = True) -> ChatRequest:
    return make_chat_request(model, LoadRequest(), Conversation(), AnswerLimits(), resume, "stop", saves=saves)


def save(name: str, model: Path) -> None:
    opened = SessionStore(sessions_folder()).open(name)
    opened.save(Conversation().with_user(f"Is this {name}?"), model, LOADED)
    opened.close()


def test_chat_begins_empty_and_is_saved_only_if_asked(toy_gguf: Path) -> None:
    assert job(toy_gguf).store is not None
    assert job(toy_gguf, saves=False).store is None
    assert (job(toy_gguf).resume, job(toy_gguf).conversation) == ("", Conversation())


def test_resumed_chat_has_the_turns_and_the_model_of_its_session(toy_gguf: Path) -> None:
    save("first", toy_gguf)
    found = job(None, "first")
    assert found.model == toy_gguf
    assert [message.content for message in found.conversation.messages] == ["Is this first?"]


def test_resume_without_a_name_takes_the_latest_session(toy_gguf: Path) -> None:
    with pytest.raises(QwenctlError, match="no saved conversations yet") as caught:
        job(toy_gguf, "")
    assert caught.value.code == ExitCode.NO_INPUT
    save("first", toy_gguf)
    assert job(toy_gguf, "").resume == "first"


def test_resume_of_what_is_not_saved_is_refused(toy_gguf: Path) -> None:
    with pytest.raises(QwenctlError, match="--resume and --no-save cannot be used together"):
        job(toy_gguf, "first", saves=False)


def test_prefix_becomes_the_system_prompt(toy_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.md").write_text("All rules.")
    found = with_prefix(job(toy_gguf), str(tmp_path / "rules.md"), "rules")
    assert found.conversation.system == "All rules."
    assert found.prefix is not None
    assert (found.prefix.name, found.prefix.is_new) == ("rules", True)
    assert with_prefix(job(toy_gguf), None, None).prefix is None


def test_prefix_that_cannot_be_used_is_refused(toy_gguf: Path) -> None:
    save("first", toy_gguf)
    with pytest.raises(QwenctlError, match="--save-as needs --prefix FILE"):
        with_prefix(job(toy_gguf), None, "rules")
    with pytest.raises(QwenctlError, match="--resume and --prefix cannot be used together"):
        with_prefix(job(toy_gguf, "first"), "rules.md", None)


def test_functions_are_told_to_the_model_unless_a_schema_forbids_calls(toy_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([{"name": "get_time"}]))
    with load_tools(tmp_path / "tools.json", 5) as functions:
        found = with_tools(job(toy_gguf), functions, auto_approve_tools=True)
        assert [tool["function"]["name"] for tool in found.conversation.tools] == ["get_time"]
        assert found.auto_approve_tools
        strict = make_chat_request(
            toy_gguf, LoadRequest(), Conversation(), AnswerLimits(json_schema="{}"), None, "stop", saves=False
        )
        with pytest.raises(QwenctlError, match="--tools and --json-schema cannot be used together"):
            with_tools(strict, functions, auto_approve_tools=True)
    with load_tools(None, 5) as nothing:
        assert nothing is None


def test_images_without_a_source_cannot_be_sent(toy_gguf: Path) -> None:
    with pytest.raises(QwenctlError, match="images cannot be sent here"):
        job(toy_gguf).resolve_media("a.png")
