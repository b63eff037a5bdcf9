"""Lists of saved conversations and prefixes: a row for each, even if it is damaged."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from quantize.formatting import format_bytes
from qwenctl.errors import QwenctlError
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.streams import text_writer

if TYPE_CHECKING:
    from qwenctl.chat.saved.sessions import SessionStore


def list_text(store: SessionStore, *, as_json: bool) -> str:
    """The list of everything in `store`, the latest first, as lines or as JSON."""
    rows = [list_row(store, name) for name in store.names()]
    if as_json:
        return json.dumps(rows, ensure_ascii=False) + "\n"
    width = max((len(one["name"]) for one in rows), default=0)
    return "".join(f"{one['name']:<{width}}  {row_text(one)}\n" for one in rows)


def print_list(store: SessionStore, what: str, how: str, *, as_json: bool) -> None:
    """Print the list; if it is empty, say on standard error that there are no saved `what`, and `how` to save one."""
    text = list_text(store, as_json=as_json)
    if not text and sys.stderr is not None:
        text_writer(sys.stderr)(f"no saved {what}\n  hint: {how}\n")
    text_writer(sys.stdout)(text)


def list_row(store: SessionStore, name: str) -> dict[str, Any]:
    """The fields of a session's row; a damaged one has only its name, its size and "damaged"."""
    state = store.state_bytes(name)
    try:
        session = store.load(name, any_role=True)
    except QwenctlError:
        return {"name": name, "damaged": True, "state_bytes": state}
    return {
        "name": name,
        "updated": session.updated,
        "messages": len(session.conversation.messages),
        "model": session.model,
        "state_bytes": state,
    }


def row_text(row: dict[str, Any]) -> str:
    """A row as text, without the name."""
    if row.get("damaged"):
        return "damaged"
    when = row["updated"][:16].replace("T", " ")
    return f"{when}  {row['messages']:>3} messages  {format_bytes(row['state_bytes']):>8}  {clean_line(row['model'])}"
