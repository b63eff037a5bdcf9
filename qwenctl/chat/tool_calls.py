"""The calls in an answer: shown to the person, allowed or refused, run, their results told to the model.

The calls that were found come in with the chat's setup and state; the state with their results goes out. How a call is
run is `tools`' business.
"""

from __future__ import annotations

from dataclasses import replace

from qwenctl.chat.interactive.state import ChatSetup, ChatState
from qwenctl.tools.calls import Found, FoundCall, shown
from qwenctl.tools.tool_set import Functions, failure

_CHOICES = {"y": "yes", "n": "no", "a": "always"}
_QUESTION = "run it? [y]es [n]o [a]lways: "


def answer_calls(setup: ChatSetup, functions: Functions, state: ChatState, found: Found) -> tuple[ChatState, bool]:
    """The state after the calls, and whether the person lets the model go on."""
    results = []
    goes_on = True
    for one in found.calls:
        result = failure("the person stopped it before this call")
        if goes_on:
            setup.screen.call(shown(one.call), whole=_must_ask(setup, functions, state, one))
            try:
                state, result = _result(setup, functions, state, one)
            except (KeyboardInterrupt, EOFError):
                goes_on, result = False, failure("the person stopped this call")
            setup.screen.result(result)
        results.append(result)
    if found.problem:
        results.append(failure(found.problem))
        setup.screen.result(results[-1])
    return replace(state, conversation=state.conversation.with_results(results)), goes_on


def _result(setup: ChatSetup, functions: Functions, state: ChatState, one: FoundCall) -> tuple[ChatState, str]:
    name = one.call.name
    if one.problem:
        return state, failure(one.problem)
    if name in functions.answered_by_hand:
        return state, setup.ask(f"what does {name} give? ")
    if _must_ask(setup, functions, state, one):
        choice = _permission(setup)
        if choice == "no":
            return state, failure("the person does not allow this call")
        if choice == "always":
            state = replace(state, allowed=state.allowed | {name})
    with setup.screen.waiting(f"running {name} (Ctrl-C stops it)"):
        return state, functions.run(one.call)


def _must_ask(setup: ChatSetup, functions: Functions, state: ChatState, one: FoundCall) -> bool:
    """Whether a person decides on the call, who must see all of it."""
    if one.problem or one.call.name in functions.answered_by_hand:
        return not one.problem
    return not setup.allows_all and one.call.name not in state.allowed


def _permission(setup: ChatSetup) -> str:
    """What the person says: yes, no or always."""
    while True:
        said = setup.ask(_QUESTION).strip().lower()
        if said in _CHOICES or said in _CHOICES.values():
            return _CHOICES.get(said, said)
