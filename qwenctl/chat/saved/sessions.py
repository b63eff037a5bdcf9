"""Conversations on the disk: a folder each, with the conversation and, beside it, the engine's state.

Names and `Session` values come in and go out; files are written whole or not at all, readable by their owner only.
What is in the state file is the engine's business (`engine.kv.state_file`); nothing here knows a terminal or an engine.
A session that is open is locked: two chats would overwrite each other's turns.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Literal

from quantize.file_system import AlreadyLocked, open_locked
from qwenctl.chat.conversation import Conversation
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import write_private
from qwenctl.files.media_files import MAX_BYTES
from qwenctl.protocol.codec import from_builtins
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message

_CONVERSATION, _STATE, _LOCK, _MEDIA = "conversation.json", "state", "lock", "media"
_NAME = re.compile(r"\w[\w .+-]{0,79}")
_WORDS_IN_NAME, _LETTERS_IN_NAME = 6, 40
# What the file of a conversation holds, in this order, after its version.
_SESSION_FIELDS = ("model", "fingerprint", "template_sha256", "created", "updated")
_CONVERSATION_FIELDS = ("think", "think_budget", "sampling", "omitted", "summary", "messages")


@dataclass(frozen=True)
class Session:
    """A kept conversation. Times are ISO 8601 in UTC; `fingerprint` and `template_sha256` are those of the model."""

    name: str
    conversation: Conversation
    model: str
    fingerprint: str = ""
    template_sha256: str = ""
    created: str = ""
    updated: str = ""


class SessionStore:
    """The sessions in one folder; `kind` says whether they are conversations or prefixes, which are saved alike."""

    def __init__(self, folder: Path, kind: Literal["session", "prefix"] = "session") -> None:
        self._folder, self._noun = folder, {"session": "conversation"}.get(kind, kind)
        self._command = {"session": "qwenctl sessions", "prefix": "qwenctl prefixes"}[kind]

    def names(self) -> list[str]:
        """All names, the one that was written last first."""
        files = self._folder.glob(f"*/{_CONVERSATION}")
        return [file.parent.name for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)]

    def state_bytes(self, name: str) -> int:
        """The size of the engine's state of the session `name`; 0 if it has none."""
        return sum(file.stat().st_size for file in (self._folder / name).glob(f"{_STATE}*"))

    def state_file(self, name: str) -> Path:
        """Where the engine keeps the state of the session `name`."""
        return self._folder / self._checked(name) / _STATE

    def load(self, name: str) -> Session:
        """The session `name`. Raises QwenctlError if there is none, with the nearest names, or if it is damaged."""
        try:
            text = (self._folder / self._checked(name) / _CONVERSATION).read_text("utf-8")
            return _with_files(_from_json(name, text), self._folder / name / _MEDIA)
        except FileNotFoundError as error:
            near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.3)
            hint = f"available: {', '.join(near)}" if near else self._command
            raise QwenctlError(f"no saved {self._noun} is named {name!r}", hint, ExitCode.NO_INPUT) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            hint = f"{self._command} delete '{name}'"
            raise QwenctlError(
                f"the saved {self._noun} {name!r} is damaged: {error}", hint, ExitCode.BAD_DATA
            ) from error

    def open(self, name: str) -> OpenSession:
        """Open the session `name`, new or not. Raises QwenctlError if another process has it open."""
        folder = self._folder / self._checked(name)
        folder.mkdir(0o700, parents=True, exist_ok=True)
        try:
            lock = open_locked(folder / _LOCK, mode=0o600)
        except AlreadyLocked as error:
            raise QwenctlError(
                f"the saved {self._noun} {name!r} is open in another qwenctl",
                "close it there first",
                ExitCode.TRY_AGAIN,
            ) from error
        return OpenSession(folder, lock)

    def delete(self, name: str) -> None:
        """Delete the session `name`, damaged or not. Raises QwenctlError if there is none, or if it is open."""
        if not (self._folder / self._checked(name) / _CONVERSATION).exists():
            self.load(name)  # says that there is none
        self.open(name).delete()

    def new_name(self, first_question: str) -> str:
        """A free name that tells the day and what the conversation is about."""
        words = re.findall(r"\w+", first_question.lower())[:_WORDS_IN_NAME]
        topic = "-".join(words)[:_LETTERS_IN_NAME].strip("-_") or "chat"
        base = f"{datetime.now(UTC).astimezone():%Y-%m-%d}-{topic}"
        names = (base if number == 1 else f"{base}-{number}" for number in range(1, 10_000))
        return next(name for name in names if not (self._folder / name).exists())

    def _checked(self, name: str) -> str:
        """`name`, if a folder can be called so and it stays where it belongs."""
        if not _NAME.fullmatch(name) or name.endswith((" ", ".")):
            raise QwenctlError(
                f"{name!r} cannot be the name of a saved {self._noun}",
                "letters, digits, spaces and . + - _, at most 80 of them",
            )
        return name


class OpenSession:
    """A session that this process writes to."""

    def __init__(self, folder: Path, lock: FileIO) -> None:
        self._folder, self._lock = folder, lock

    @property
    def name(self) -> str:
        """Its name, which is that of its folder."""
        return self._folder.name

    @property
    def state_file(self) -> Path:
        """Where the engine keeps its state."""
        return self._folder / _STATE

    def keep(self, conversation: Conversation, model: Path, loaded: ModelInfo) -> None:
        """Write the conversation and its pictures. Raises OSError."""
        for media in conversation.media:
            self._keep_media(media)
        path, now = self._folder / _CONVERSATION, datetime.now(UTC).isoformat(timespec="seconds")
        created = _from_json(self.name, path.read_text("utf-8")).created if path.exists() else now
        session = Session(
            self.name, conversation, str(model.absolute()), loaded.fingerprint, loaded.template_sha256, created, now
        )
        write_private(path, _to_json(session).encode("utf-8", "replace"))

    def _keep_media(self, media: Media) -> None:
        """Copy a picture to the others, by its hash; a clip that is larger than any picture stays where it lies."""
        source, saved = Path(media.file), self._folder / _MEDIA / media.sha256
        if not saved.exists() and source.is_file() and source.stat().st_size <= MAX_BYTES:
            saved.parent.mkdir(0o700, exist_ok=True)
            write_private(saved, source.read_bytes())

    def close(self) -> None:
        """Let others open it; a session in which nothing was kept leaves nothing behind."""
        if not (self._folder / _CONVERSATION).exists():
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    def delete(self) -> None:
        """Delete all that is kept of it, and close it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def _with_files(session: Session, folder: Path) -> Session:
    """With each picture that lies in `folder` found there."""

    def found(media: Media) -> Media:
        if not re.fullmatch("[0-9a-f]{64}", media.sha256):  # it is the name of a file
            raise ValueError("an image has no hash")
        return replace(media, file=str(folder / media.sha256)) if (folder / media.sha256).is_file() else media

    def with_found(message: Message) -> Message:
        return replace(message, media=tuple(map(found, message.media)))

    messages = tuple(map(with_found, session.conversation.messages))
    return replace(session, conversation=replace(session.conversation, messages=messages))


def _to_json(session: Session) -> str:
    fields = asdict(session)
    of_session = {name: fields[name] for name in _SESSION_FIELDS}
    of_conversation = {name: fields["conversation"][name] for name in _CONVERSATION_FIELDS}
    return json.dumps({"version": 1, **of_session, **of_conversation}, ensure_ascii=False, indent=1)


def _from_json(name: str, text: str) -> Session:
    """The session that `_to_json` made this text of. Raises ValueError, TypeError or KeyError for anything else."""
    fields = json.loads(text)
    conversation = {name: fields[name] for name in _CONVERSATION_FIELDS}
    of_session = {name: fields[name] for name in _SESSION_FIELDS}
    return from_builtins(Session, {"name": name, "conversation": conversation, **of_session})
