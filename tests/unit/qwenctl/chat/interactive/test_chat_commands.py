"""Slash commands: how each one changes a conversation, and what it prints."""

from __future__ import annotations

import pytest

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.interactive.slash_commands import COMMANDS, run_command
from qwenctl.errors import QwenctlError
from qwenctl.protocol.messages import Message, Sampling

ASKED = Conversation().with_system("Be brief.").with_user("One?").with_answer("1.", "hm").with_user("Two?")
ANSWERED = ASKED.with_answer("2.", "hmm\nyes")


def after(line: str, conversation: Conversation = ANSWERED) -> Conversation:
    return run_command(line, conversation, Sampling()).conversation


def output_of(line: str, conversation: Conversation = ANSWERED) -> str:
    return "\n".join(run_command(line, conversation, Sampling()).lines)


def failure(line: str, conversation: Conversation = ANSWERED) -> tuple[str, str]:
    with pytest.raises(QwenctlError) as caught:
        run_command(line, conversation, Sampling())
    return caught.value.message, caught.value.hint


def test_help_names_every_command() -> None:
    assert all(name in output_of("/help") for name in COMMANDS)


@pytest.mark.parametrize(("line", "think"), [("/think off", False), ("/think ON", True), ("/think", False)])
def test_think_sets_or_toggles(line: str, think: bool) -> None:
    assert after(line).think is think


def test_think_with_unknown_value_is_refused() -> None:
    assert failure("/think maybe") == ("/think takes on, off or budget N, not 'maybe'", "/think on")


def test_thinking_shows_the_last_thought() -> None:
    assert output_of("/thinking") == "hmm\nyes"
    assert output_of("/thinking", Conversation()) == "no thinking yet"


def test_system_replaces_the_system_prompt_and_keeps_the_turns() -> None:
    changed = after("/system Rhyme.\nAlways.").messages
    assert changed[0] == Message("system", "Rhyme.\nAlways.")
    assert changed[1:] == ANSWERED.messages[1:]
    assert after("/system").messages == ANSWERED.messages[1:]


def test_clear_keeps_only_the_system_prompt() -> None:
    assert after("/clear").messages == (Message("system", "Be brief."),)


def test_regen_asks_the_last_question_again() -> None:
    outcome = run_command("/regen", ANSWERED, Sampling())
    assert (outcome.conversation, outcome.next_action) == (ASKED, "generate")
    assert run_command("/regen", ASKED, Sampling()).conversation == ASKED
    assert failure("/regen", Conversation())[0] == "no question yet"


def test_undo_removes_question_and_answer() -> None:
    assert after("/undo") == after("/undo", ASKED)
    assert after("/undo").messages[-1] == Message("assistant", "1.", "hm")
    assert output_of("/undo") == "removed: Two?"
    assert failure("/undo", Conversation()) == ("nothing to undo", "")


def test_set_changes_one_value_and_lists_all() -> None:
    assert after("/set temp 0.5").sampling == {"temperature": 0.5}
    assert after("/set top_k=7", after("/set temp 0")).sampling == {"temperature": 0.0, "top_k": 7}
    assert after("/set seed -1").sampling == {"seed": None}
    assert "top-k" in output_of("/set")
    assert "random" in output_of("/set")


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("/set tmep 1", "no such sampling parameter: 'tmep'", "available: temp"),
        ("/set temp nan", "temp: 'nan' is not a finite number", ""),
        ("/set temp -1", "temp: -1 is out of range: it must be a number from 0.0 to 100.0", ""),
        ("/set top-k 1.5", "top-k: '1.5' is not a whole number", ""),
        ("/set top-k -1", "top-k: -1 is out of range: it must be a whole number of at least 0", ""),
        ("/set temp", "/set temp needs a value", "/set temp 1"),
        ("/regne", "no such command: /regne", "did you mean /regen?"),
        ("/xyzzy", "no such command: /xyzzy", "/help lists them; a space before the slash sends it as text"),
    ],
)
def test_bad_command_is_refused_with_hint(line: str, message: str, hint: str) -> None:
    assert failure(line) == (message, hint)


@pytest.mark.parametrize("line", ["/quit", "/exit", "/bye", "/QUIT"])
def test_quit_ends_chat(line: str) -> None:
    assert run_command(line, ANSWERED, Sampling()).next_action == "quit"
