"""The calls in an answer: shown to the person, allowed or refused, run, their results told to the model.

The calls that were found come in with the chat's setup and state; the state with their results goes out. How a call is
run is `tools`' business.
"""

from __future__ import annotations

from dataclasses import replace

from qwenctl.chat.interactive.state import ChatSetup, ChatState
from qwenctl.tools.calls import ParsedCall, ParsedCalls, format_call
from qwenctl.tools.tool_set import ToolSet, error_result

_CHOICES = {"y": "yes", "n": "no", "a": "always"}
_QUESTION = "run it? [y]es [n]o [a]lways: "


def run_tool_calls(
    setup: ChatSetup, functions: ToolSet, state: ChatState, found: ParsedCalls
) -> tuple[ChatState, bool]:
    """The state after the calls, and whether the person lets the model go on."""
    results = []
    goes_on = True
    for one in found.calls:
        result = error_result("the user stopped before this call")
        if goes_on:
            setup.screen.call(format_call(one.call), whole=_must_ask(setup, functions, state, one))
            try:
                state, result = _result(setup, functions, state, one)
            except (KeyboardInterrupt, EOFError):
                goes_on, result = False, error_result("the user stopped this call")
            setup.screen.result(result)
        results.append(result)
    if found.problem:
        results.append(error_result(found.problem))
        setup.screen.result(results[-1])
    return replace(state, conversation=state.conversation.with_results(results)), goes_on


def _result(setup: ChatSetup, functions: ToolSet, state: ChatState, one: ParsedCall) -> tuple[ChatState, str]:
    name = one.call.name
    if one.problem:
        return state, error_result(one.problem)
    if name in functions.manual_tools:
        return state, setup.ask(f"result of {name}: ")
    if _must_ask(setup, functions, state, one):
        choice = _permission(setup)
        if choice == "no":
            return state, error_result("the user did not allow this call")
        if choice == "always":
            state = replace(state, approved_tools=state.approved_tools | {name})
    with setup.screen.waiting(f"running {name} (Ctrl-C stops it)"):
        return state, functions.run(one.call)


def _must_ask(setup: ChatSetup, functions: ToolSet, state: ChatState, one: ParsedCall) -> bool:
    """Whether a person decides on the call, who must see all of it."""
    if one.problem or one.call.name in functions.manual_tools:
        return not one.problem
    return not setup.auto_approve_tools and one.call.name not in state.approved_tools


def _permission(setup: ChatSetup) -> str:
    """What the person says: yes, no or always."""
    while True:
        output = setup.ask(_QUESTION).strip().lower()
        if output in _CHOICES or output in _CHOICES.values():
            return _CHOICES.get(output, output)
