"""Saves a conversation after each of its turns, as a chat does, for trials in which that is interrupted.

`python -m tests.support.session_writer` continues the saved conversation to its last turn. `check_session` says whether
it is whole.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import QwenctlError, explain
from qwenctl.files.paths import sessions_folder
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message
from tests.support.chat_sessions import LOADED
from tests.support.paths import DATA

_NAME, _TURNS = "trial", 60


def main(_arguments: list[str]) -> int:
    """Write all turns; the exit code."""
    store = SessionStore(sessions_folder())
    try:
        opened = store.open(_NAME)
        found = store.load(_NAME).conversation if _NAME in store.names() else Conversation()
        picture = DATA / "pictures" / "00.png"
        media = Media("image", str(picture), hashlib.sha256(picture.read_bytes()).hexdigest(), picture.name)
        for number in range(len(found.messages), _TURNS):
            message = Message("user", f"question {number}", media=(media,))
            found = replace(found, messages=(*found.messages, message))
            opened.save(found, Path("model.gguf"), LOADED)
        opened.close()
    except (OSError, QwenctlError) as error:
        failure = explain(error)
        sys.stderr.write(f"qwenctl: error: {failure.message}\n")
        return failure.code
    return 0


def check_session(home: Path) -> None:
    """Raises AssertionError unless all turns are there, and nothing else is left."""
    folder = home / "data" / "qwenctl" / "sessions"
    try:
        conversation = SessionStore(folder).load(_NAME).conversation
    except QwenctlError as error:
        raise AssertionError(error.message) from error
    assert [message.content for message in conversation.messages] == [f"question {turn}" for turn in range(_TURNS)]
    left = {path.relative_to(folder / _NAME).parts[0] for path in folder.rglob("*") if path.is_file()}
    assert left == {"conversation.json", "lock", "media"}, left


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
