"""Images and videos in a chat: sent with a question, saved with the conversation, edited, and exported."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.interactive.slash_commands import run_command
from qwenctl.chat.saved.export import export_text
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.media_files import MAX_BYTES, MediaSource
from qwenctl.protocol.media import Media, MediaInfo
from qwenctl.protocol.messages import Sampling
from tests.support.chat_sessions import LOADED
from tests.support.pictures import BLACK, RED, media, write_clip
from tests.support.scripted_engine import CRASH, Chat, ScriptedEngine, answer

WHAT = "What is in the picture?"


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def save_and_load(store: SessionStore, talk: Conversation) -> Conversation:
    opened = store.open("seen")
    opened.save(talk, Path("toy.gguf"), LOADED)
    opened.close()
    return store.load("seen").conversation


def test_images_are_saved_with_conversation(store: SessionStore, tmp_path: Path) -> None:
    """Copied under their hashes, readable by the owner only, and independent of the original file."""
    sent = tmp_path / "photo.png"
    sent.write_bytes(RED.read_bytes())
    talk = Conversation().with_user(WHAT, (media(sent), media(BLACK))).with_answer("A triangle and a square.", "")
    sent.unlink()
    sent.write_bytes(RED.read_bytes())
    found = save_and_load(store, talk)
    sent.write_bytes(b"something else")
    assert [(one.name, one.sha256, Path(one.file).read_bytes()) for one in found.media] == [
        ("photo.png", talk.media[0].sha256, RED.read_bytes()), (BLACK.name, talk.media[1].sha256, BLACK.read_bytes()),
    ]  # fmt: skip
    folder = tmp_path / "sessions" / "seen" / "media"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())]
    assert modes == [0o700, 0o600, 0o600]
    assert save_and_load(store, found).media == found.media
    store.delete("seen")
    assert not folder.exists()


def test_long_video_is_referenced_and_not_copied(store: SessionStore, tmp_path: Path) -> None:
    clip = tmp_path / "long.mp4"
    with clip.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    talk = Conversation().with_user(WHAT, (media(clip, "video"),))
    assert save_and_load(store, talk).media == talk.media


def test_image_hash_with_path_is_refused(store: SessionStore, tmp_path: Path) -> None:
    save_and_load(store, Conversation().with_user(WHAT, (media(RED),)))
    file = tmp_path / "sessions" / "seen" / "conversation.json"
    file.write_text(file.read_text().replace(media(RED).sha256, "../../../secret"))
    with pytest.raises(QwenctlError, match="the saved conversation 'seen' is damaged: an image has no hash"):
        store.load("seen")


def test_exported_conversation_contains_images(store: SessionStore, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [RED])
    talk = save_and_load(
        store, Conversation().with_user(WHAT, (media(RED), media(clip, "video"))).with_answer("A triangle.", "")
    )
    picture, video = json.loads(export_text(talk, "json"))["messages"][0]["media"]
    assert base64.b64decode(picture["url"].removeprefix("data:image/png;base64,")) == RED.read_bytes()
    assert (video["name"], "url" in video, "file" in {**video, **picture}) == ("clip.mkv", False, False)
    assert export_text(talk, "markdown").startswith(f"## You\n\n[image: 12.png]\n\n[video: clip.mkv]\n\n{WHAT}\n")
    assert str(tmp_path) not in export_text(talk, "json") + export_text(talk, "markdown")


def test_edited_question_keeps_images() -> None:
    talk = Conversation().with_user(WHAT, (media(RED),)).with_answer("A triangle.", "")
    outcome = run_command("/edit", talk, Sampling())
    assert (outcome.argument, outcome.media, outcome.conversation.messages) == (WHAT, (media(RED),), ())
    assert run_command("/regen", talk, Sampling()).conversation.media == (media(RED),)


def test_sent_image_is_copied_and_survives_file_change(tmp_path: Path) -> None:
    sent, folder = tmp_path / "photo.png", tmp_path / "copies"
    sent.write_bytes(RED.read_bytes())
    taken = MediaSource(folder).resolve(str(sent))
    sent.write_bytes(BLACK.read_bytes())
    assert Path(taken.file).read_bytes() == RED.read_bytes()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, Path(taken.file))] == [0o700, 0o600]


class BlindEngine(ScriptedEngine):
    """Crashes on every image."""

    def inspect_media(self, media: Media) -> MediaInfo:
        raise CRASH


def test_image_that_crashes_engine_leaves_conversation_intact(tmp_path: Path) -> None:
    chat = Chat(BlindEngine([answer("One.")]), BlindEngine([answer("Two.")]))
    assert chat.run("First?", f"/image {RED}", "Second?", resolve_media=MediaSource(tmp_path).resolve) == ExitCode.OK
    assert chat.opened == 2
    [asked] = chat.engines[1].requests
    assert [(message.content, message.media) for message in asked.messages] == [
        ("First?", ()),
        ("One.", ()),
        ("Second?", ()),
    ]
