"""Saved conversations: a folder each, with the conversation and, beside it, the engine's state.

Names and `Session` values come in and go out. Files are written atomically, readable by their owner only. The contents
of the state file (`engine.kv.state_file`), the terminal and the engine are not known here. An open session is locked:
two chats would overwrite each other's turns.
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
from typing import Any, Literal, cast

from quantize.file_system import AlreadyLocked, open_locked
from quantize.foreign_json import parse_object
from qwenctl.chat.conversation import Conversation
from qwenctl.errors import ExitCode, QwenctlError, quote
from qwenctl.files.atomic import write_private
from qwenctl.files.media_files import MAX_BYTES
from qwenctl.files.paths import make_private
from qwenctl.protocol.codec import from_builtins
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message

_CONVERSATION, _STATE, _LOCK, _MEDIA = "conversation.json", "state", "lock", "media"
_NAME = re.compile(r"\w[\w .+-]{0,79}")
_WORDS_IN_NAME, _LETTERS_IN_NAME = 6, 40
# The fields of conversation.json, in this order, after its version.
_SESSION_FIELDS = ("model", "fingerprint", "template_sha256", "created", "updated")
_CONVERSATION_FIELDS = ("think", "think_budget", "sampling", "omitted", "summary", "messages")


@dataclass(frozen=True)
class Session:
    """A saved conversation. `model` is the path of the model, `fingerprint` and `template_sha256` identify it.

    `created` and `updated` are times in UTC, ISO 8601.
    """

    name: str
    conversation: Conversation
    model: str
    fingerprint: str = ""
    template_sha256: str = ""
    created: str = ""
    updated: str = ""


class SessionStore:
    """The sessions in one folder. `kind` only chooses the words of messages: prefixes are saved like conversations."""

    def __init__(self, folder: Path, kind: Literal["session", "prefix"] = "session") -> None:
        self._folder, self._noun = folder, {"session": "conversation"}.get(kind, kind)
        self._command = {"session": "qwenctl sessions", "prefix": "qwenctl prefixes"}[kind]

    def names(self) -> list[str]:
        """Return the names of all sessions, the most recently saved first."""
        files = self._folder.glob(f"*/{_CONVERSATION}")
        return [file.parent.name for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)]

    def state_bytes(self, name: str) -> int:
        """Return the size in bytes of the engine's states of the session `name`; 0 if it has none."""
        return sum(file.stat().st_size for file in (self._folder / name).glob(f"{_STATE}*"))

    def state_file(self, name: str) -> Path:
        """Return the path of the engine's state of the session `name`. Raises QwenctlError if it cannot be a name."""
        return self._folder / self._validate_name(name) / _STATE

    def load(self, name: str, *, any_role: bool = False) -> Session:
        """Read the session `name`. With `any_role`, to be shown only, its messages may have roles unknown here.

        Raises QwenctlError if there is none, with similar names, or if it is damaged.
        """
        try:
            text = (self._folder / self._validate_name(name) / _CONVERSATION).read_text("utf-8")
            return _locate_media(_from_json(name, text, any_role=any_role), self._folder / name / _MEDIA)
        except FileNotFoundError as error:
            near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.3)
            hint = f"available: {', '.join(near)}" if near else self._command
            raise QwenctlError(f"no saved {self._noun} is named {name!r}", hint, ExitCode.NO_INPUT) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            hint = f"{self._command} delete {quote(name)}"
            raise QwenctlError(
                f"the saved {self._noun} {name!r} is damaged: {error}", hint, ExitCode.BAD_DATA
            ) from error

    def open(self, name: str) -> OpenSession:
        """Open and lock the session `name`, new or saved. Raises QwenctlError if another process has it open."""
        folder = make_private(make_private(self._folder) / self._validate_name(name))
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
        if not (self._folder / self._validate_name(name) / _CONVERSATION).exists():
            self.load(name)  # raises, and lists similar names
        self.open(name).delete()

    def new_name(self, first_question: str) -> str:
        """Return an unused name made of the local date and the first words of the question."""
        words = re.findall(r"\w+", first_question.lower())[:_WORDS_IN_NAME]
        topic = "-".join(words)[:_LETTERS_IN_NAME].strip("-_") or "chat"
        base = f"{datetime.now(UTC).astimezone():%Y-%m-%d}-{topic}"
        names = (base if number == 1 else f"{base}-{number}" for number in range(1, 10_000))
        return next(name for name in names if not (self._folder / name).exists())

    def _validate_name(self, name: str) -> str:
        """Return `name` if it is safe as the name of a folder inside the store. Raises QwenctlError otherwise."""
        if not _NAME.fullmatch(name) or name.endswith((" ", ".")):
            raise QwenctlError(
                f"{name!r} cannot be the name of a saved {self._noun}",
                "letters, digits, spaces and . + - _, at most 80 of them",
            )
        return name


class OpenSession:
    """A session that this process has locked and may write to."""

    def __init__(self, folder: Path, lock: FileIO) -> None:
        self._folder, self._lock = folder, lock

    @property
    def name(self) -> str:
        """The name of the session, which is that of its folder."""
        return self._folder.name

    @property
    def state_file(self) -> Path:
        """The path of the engine's state."""
        return self._folder / _STATE

    def save(self, conversation: Conversation, model: Path, loaded: ModelInfo) -> None:
        """Write the conversation and its images. Raises OSError if that fails."""
        for media in conversation.media:
            self._save_media(media)
        path, now = self._folder / _CONVERSATION, datetime.now(UTC).isoformat(timespec="seconds")
        created = _from_json(self.name, path.read_text("utf-8")).created if path.exists() else now
        session = Session(
            self.name, conversation, str(model.absolute()), loaded.fingerprint, loaded.template_sha256, created, now
        )
        write_private(path, _to_json(session).encode("utf-8", "replace"))

    def _save_media(self, media: Media) -> None:
        """Copy an image into the session, named by its hash. A video larger than any image is not copied."""
        source, saved = Path(media.file), self._folder / _MEDIA / media.sha256
        if not saved.exists() and source.is_file() and source.stat().st_size <= MAX_BYTES:
            saved.parent.mkdir(0o700, exist_ok=True)
            write_private(saved, source.read_bytes())

    def close(self) -> None:
        """Unlock the session; delete its folder if nothing was saved."""
        if not (self._folder / _CONVERSATION).exists():
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    def delete(self) -> None:
        """Delete the session's folder, and unlock it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def _locate_media(session: Session, folder: Path) -> Session:
    """Point each image and video at its copy in `folder`, if there is one. Raises ValueError if one has no hash."""

    def locate(media: Media) -> Media:
        # The hash names a file: anything else could lead out of the folder.
        if not re.fullmatch("[0-9a-f]{64}", media.sha256):
            raise ValueError("an image has no hash")
        return replace(media, file=str(folder / media.sha256)) if (folder / media.sha256).is_file() else media

    def locate_all(message: Message) -> Message:
        return replace(message, media=tuple(map(locate, message.media)))

    messages = tuple(map(locate_all, session.conversation.messages))
    return replace(session, conversation=replace(session.conversation, messages=messages))


def _to_json(session: Session) -> str:
    fields = asdict(session)
    of_session = {name: fields[name] for name in _SESSION_FIELDS}
    of_conversation = {name: fields["conversation"][name] for name in _CONVERSATION_FIELDS}
    return json.dumps({"version": 1, **of_session, **of_conversation}, ensure_ascii=False, indent=1)


def _from_json(name: str, text: str, *, any_role: bool = False) -> Session:
    """Parse the text that `_to_json` made. Raises ValueError, TypeError or KeyError for anything else."""
    fields = parse_object(text, len(text) * 4 + 1)  # of this program: an answer may be long
    roles = [str(message["role"]) for message in fields["messages"]]
    if any_role:
        fields["messages"] = [{**message, "role": "user"} for message in fields["messages"]]
    conversation = {name: fields[name] for name in _CONVERSATION_FIELDS}
    of_session = {name: fields[name] for name in _SESSION_FIELDS}
    session = from_builtins(Session, {"name": name, "conversation": conversation, **of_session})
    if not any_role:
        return session
    messages = tuple(
        replace(message, role=cast("Any", role))
        for message, role in zip(session.conversation.messages, roles, strict=True)
    )
    return replace(session, conversation=replace(session.conversation, messages=messages))
