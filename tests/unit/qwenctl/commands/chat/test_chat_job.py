"""What a chat is asked for, as a value: a model, a conversation that goes on, a prefix, functions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.chat.build_request import AnswerLimits
from qwenctl.chat.conversation import Conversation, ConversationChanges
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


@given(st.booleans() | st.none(), st.integers(-1, 5) | st.none(), st.text(min_size=1) | st.none(), st.booleans())
def test_changes_replace_what_is_given_and_keep_the_rest(
    think: bool | None, budget: int | None, system: str | None, greedy: bool
) -> None:
    sampling: dict[str, float] = {"temperature": 0.0} if greedy else {}
    saved = Conversation(think=False, think_budget=7, sampling={"temperature": 0.5, "top_k": 3}).with_system("Old.")
    saved = saved.with_user("Hi?").with_answer("Hi.", "")
    found = ConversationChanges(system, think, budget, sampling).apply(saved)
    assert found.think == bool(think)
    assert found.think_budget == (7 if budget is None else budget)
    assert found.system == ("Old." if system is None else system)
    assert found.sampling == {"temperature": 0.0 if greedy else 0.5, "top_k": 3}
    assert found.turns == saved.turns


def test_resumed_chat_obeys_what_is_given_beside_it(toy_gguf: Path) -> None:
    save("first", toy_gguf)
    changes = ConversationChanges("Be brief.", think=False)
    found = make_chat_request(
        None, LoadRequest(), Conversation(), AnswerLimits(), "first", "stop", saves=True, changes=changes
    )
    assert (found.conversation.system, found.conversation.think) == ("Be brief.", False)
    assert found.conversation.last_question == "Is this first?"
    assert found.changes == changes
