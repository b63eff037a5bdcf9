"""The tool calls in an answer: shown to the user, approved or refused, and run.

The parsed calls come in with the chat's setup and state; the state goes out with their results in the conversation. How
a call is run is known in `tools` alone.
"""

from __future__ import annotations

from dataclasses import replace

from qwenctl.chat.interactive.state import ChatSetup, ChatState
from qwenctl.tools.calls import ParsedCall, ParsedCalls, format_call
from qwenctl.tools.tool_set import ToolSet, error_result

_CHOICES = {"y": "yes", "n": "no", "a": "always"}
_QUESTION = "run it? [y]es [n]o [a]lways: "


def run_tool_calls(
    setup: ChatSetup, functions: ToolSet, state: ChatState, parsed_calls: ParsedCalls
) -> tuple[ChatState, bool]:
    """Run the calls; return the state with their results, and whether the model may continue.

    Every call gets a result, even after the user stopped with Ctrl-C: so the next prompt has a result for each.
    """
    results = []
    may_continue = True
    for parsed in parsed_calls.calls:
        result = error_result("the user stopped before this call")
        if may_continue:
            setup.screen.show_call(format_call(parsed.call), whole=_needs_approval(setup, functions, state, parsed))
            try:
                state, result = _run_call(setup, functions, state, parsed)
            except (KeyboardInterrupt, EOFError):
                may_continue, result = False, error_result("the user stopped this call")
            setup.screen.show_result(result)
        results.append(result)
    if parsed_calls.problem:
        results.append(error_result(parsed_calls.problem))
        setup.screen.show_result(results[-1])
    return replace(state, conversation=state.conversation.with_results(results)), may_continue


def _run_call(setup: ChatSetup, functions: ToolSet, state: ChatState, parsed: ParsedCall) -> tuple[ChatState, str]:
    name = parsed.call.name
    if parsed.problem:
        return state, error_result(parsed.problem)
    if name in functions.manual_tools:
        return state, setup.ask(f"result of {name}: ")
    if _needs_approval(setup, functions, state, parsed):
        choice = _ask_permission(setup)
        if choice == "no":
            return state, error_result("the user did not allow this call")
        if choice == "always":
            state = replace(state, approved_tools=state.approved_tools | {name})
    with setup.screen.show_waiting(f"running {name} (Ctrl-C stops it)"), setup.keyboard.collect():
        return state, functions.run(parsed.call)


def _needs_approval(setup: ChatSetup, functions: ToolSet, state: ChatState, parsed: ParsedCall) -> bool:
    """Whether the user must decide on this call, and so must see all of it."""
    if parsed.problem or parsed.call.name in functions.manual_tools:
        return not parsed.problem
    return not setup.auto_approve_tools and parsed.call.name not in state.approved_tools


def _ask_permission(setup: ChatSetup) -> str:
    """Ask until the user says yes, no or always; return that word."""
    while True:
        output = setup.ask(_QUESTION).strip().lower()
        if output in _CHOICES or output in _CHOICES.values():
            return _CHOICES.get(output, output)
