"""Tool calls as a chat makes them."""

from __future__ import annotations

from typing import Any

from qwenctl.protocol.messages import ToolCall
from qwenctl.tools.tool_set import ToolSet


def run(functions: ToolSet, name: str, **arguments: Any) -> str:
    """Call the tool `name`; returns the result that the model receives."""
    return functions.run(ToolCall(name, arguments))


def tool(name: str, properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """The schema of a tool as the model receives it."""
    defs = {"Point": {"type": "object"}}
    parameters = {"type": "object", "properties": properties, "required": required or [], "$defs": defs}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}
