"""Images and videos on the command line: all sources and formats, and the errors with their hints."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from qwenctl.files.media_files import MAX_BYTES
from tests.support.cli_runner import outcome
from tests.support.command_line import run
from tests.support.paths import DATA
from tests.support.pictures import BLACK, GREEDY, GREEN, QUESTIONS, RED, encoded, write_clip

PROMPT = "What is in the picture?"
FORMS = (
    ("PNG", "file"), ("JPEG", "data"), ("WEBP", "-"), ("GIF", "file"), ("PNG", "data"), ("JPEG", "-"), ("WEBP", "file"),
    ("JPEG", "file"), ("PNG", "-"),
)  # fmt: skip


def answer_to(model: Path, *arguments: str, stdin: bytes = b"") -> str:
    done = run("chat", "-m", str(model), *GREEDY, *arguments, stdin=stdin)
    assert (done.stderr.decode(), done.returncode) == ("", 0)
    return done.stdout.decode().strip()


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_image_of_each_format_and_source_is_answered(seeing_gguf: Path, tmp_path: Path, number: int) -> None:
    """Each image has one format and one source of FORMS. A test of batches answers all of them unchanged."""
    question, (image_format, origin) = QUESTIONS[number], FORMS[number]
    data = encoded(Image.open(DATA / question["image"]).convert("RGB"), image_format, quality=95)
    (tmp_path / "without a suffix").write_bytes(data)
    argument = {
        "file": str(tmp_path / "without a suffix"),
        "data": f"data:image/{image_format.lower()};base64,{base64.b64encode(data).decode()}",
    }.get(origin, "-")
    assert (
        answer_to(seeing_gguf, "-i", argument, question["question"], stdin=data if argument == "-" else b"")
        == question["answer"]
    )


def test_images_leave_no_temporary_files(seeing_gguf: Path, tmp_path: Path) -> None:
    command = ("chat", "-m", str(seeing_gguf), *GREEDY, "-n", "1", "-i", str(RED), "-i", "-", PROMPT)
    assert run(*command, stdin=BLACK.read_bytes(), TMPDIR=str(tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_prompt_tokens_count_each_image_within_its_limits(seeing_gguf: Path) -> None:
    def tokens(*images: str) -> int:
        done = run("chat", "-m", str(seeing_gguf), *GREEDY, "--json", "-n", "1", *images, PROMPT, stdin=b"")
        found: int = json.loads(done.stdout)["usage"]["prompt_tokens"]
        return found

    assert tokens("-i", str(RED), "-i", str(BLACK)) == tokens() + 2 * 66
    assert tokens("-i", str(RED), "--image-min-tokens", "1") == tokens() + 27
    assert tokens("-i", str(RED), "--image-min-tokens", "1", "--image-max-tokens", "16") == tokens() + 18


def test_verbose_prints_image_size_and_tokens(seeing_gguf: Path) -> None:
    done = run("chat", "-m", str(seeing_gguf), *GREEDY, "--verbose", "--no-think", "-i", str(RED), PROMPT, stdin=b"")
    assert done.stdout == b"A red triangle.\n"
    assert done.stderr.decode().startswith("12.png: 160 x 160, 66 tokens\n")


def test_image_question_may_come_from_stdin(seeing_gguf: Path) -> None:
    piped = answer_to(seeing_gguf, "-i", str(GREEN), stdin=PROMPT.encode())
    assert piped == answer_to(seeing_gguf, "-i", str(GREEN), PROMPT) == "A green square."


@pytest.mark.parametrize(
    ("name", "codec", "pixels"), [("a.mp4", "libx264", "yuv420p"), ("a.webm", "libvpx-vp9", "yuv420p")]
)
def test_video_is_answered_from_sampled_frames(
    seeing_gguf: Path, tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    pictures = [Image.open(path).convert("RGB").resize((128, 128)) for path in (RED, BLACK)]
    clip = write_clip(tmp_path / name, pictures, each=6, codec=codec, pixels=pixels)
    done = run("chat", "-m", str(seeing_gguf), *GREEDY, "--verbose", "-i", str(clip), "--fps", "1", PROMPT, stdin=b"")
    assert (done.stdout, done.returncode) == (b"A black square.\n", 0)
    assert done.stderr.decode().startswith(f"{name}: 128 x 128, 3.0 s, 4 frames of it, ")
    done = run(
        "chat", "-m", str(seeing_gguf), *GREEDY, "--verbose", "-i", str(clip), "--max-frames", "2", PROMPT, stdin=b""
    )
    assert done.stderr.decode().startswith(f"{name}: 128 x 128, 3.0 s, 2 frames of it, ")


# ------------------------------------------------------------------ from a URL


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a server with an image and an HTML page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/a/red.png": RED.read_bytes(), "/page": b"<html>"}.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_image_url_is_downloaded_only_with_allow_url(seeing_gguf: Path, server: str) -> None:
    address = f"{server}/a/red.png"
    assert answer_to(seeing_gguf, "--allow-url", "-i", address, PROMPT) == "A red triangle."
    command = ("chat", "-m", str(seeing_gguf), "-i")
    assert outcome(*command, address, PROMPT) == (
        f"{address} is not downloaded without --allow-url",
        "add --allow-url",
        2,
    )
    line, _, code = outcome(*command, f"{server}/none", "--allow-url", PROMPT)
    assert (line.startswith(f"{server}/none cannot be downloaded: "), code) == (True, 69)
    line, _, code = outcome(*command, f"{server}/page", "--allow-url", PROMPT)
    assert (line, code) == ("page is neither an image nor a video", 65)
    line, _, code = outcome(*command, "http://127.0.0.1:1/x.png", "--allow-url", PROMPT)
    assert code == 69


# ------------------------------------------------------------------ errors

SUPPORTED = "supported: PNG, JPEG, WebP, GIF, AVIF, HEIC; MP4, MOV, MKV, WebM, AVI"


@pytest.mark.parametrize(
    ("image", "line", "hint", "code"),
    [
        ("missing.png", "missing.png: no such file or directory", "", 66),
        (".", ".: is a directory", "", 66),
        ("text.png", "text.png is neither an image nor a video", SUPPORTED, 65),
        ("empty.png", "empty.png is neither an image nor a video", SUPPORTED, 65),
        ("data:image/png;base64,!!", "the data URI is damaged", "data:image/png;base64,…", 65),
        ("data:,hello", "the data URI is neither an image nor a video", SUPPORTED, 65),
        ("-", "-i -: standard input is empty", "", 66),
        ("large.png", "large.png is larger than 64 MiB", "make it smaller", 65),
        (
            "bomb.png",
            "bomb.png is too large (60,000 x 60,000 pixels): the limit is 178,956,970",
            "make it smaller first",
            65,
        ),
        ("cut.png", "cut.png is damaged (image file is truncated)", "download or create it again", 65),
        ("photo.heic", "photo.heic is a HEIC image, which needs pillow-heif", "pip install pillow-heif", 65),
        (
            "broken.mp4",
            "broken.mp4 is damaged (invalid data found when processing input)",
            "download or create it again",
            65,
        ),
    ],
)
def test_unusable_image_is_refused(
    seeing_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, line: str, hint: str, code: int
) -> None:
    from tests.support.pictures import header_of

    monkeypatch.chdir(tmp_path)
    files = {
        "text.png": b"hello there, this is text", "empty.png": b"", "bomb.png": header_of(60_000, 60_000),
        "cut.png": RED.read_bytes()[:-100], "broken.mp4": b"\0\0\0\x18ftypmp42" + b"\0" * 99,
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99,
    }  # fmt: skip
    for name, data in files.items():
        Path(name).write_bytes(data)
    with Path("large.png").open("wb") as large:  # sparse
        large.write(RED.read_bytes()[:16])
        large.truncate(MAX_BYTES + 1)
    done = run("chat", "-m", str(seeing_gguf), "-t", "1", "-c", "512", "-i", image, PROMPT, stdin=b"")
    expected = [f"qwenctl: error: {line}", *([f"  hint: {hint}"] if hint else [])]
    assert (done.stdout, done.stderr.decode().splitlines(), done.returncode) == (b"", expected, code)


def test_image_without_an_mmproj_file_is_refused(toy_gguf: Path, seeing_gguf: Path) -> None:
    command = ("chat", "-m", str(toy_gguf), "-t", "1", "-c", "512", "-i", str(RED))
    hint = "put the model's mmproj file next to it, or use --mmproj FILE"
    assert outcome(*command, PROMPT) == ("the model needs its mmproj file for images", hint, 66)
    [mmproj] = seeing_gguf.parent.glob("mmproj*")
    assert answer_to(toy_gguf, "--mmproj", str(mmproj), "-i", str(RED), PROMPT) == "A red triangle."
    line, _, code = outcome(*command, "--mmproj", str(toy_gguf), PROMPT)
    assert (line, code) == (f"{toy_gguf.name} is not an mmproj file of a Qwen3.5 model", 65)
    assert outcome(*command, "--mmproj", "none.gguf", PROMPT)[::2] == ("no such file: none.gguf", 66)


def test_image_for_a_text_only_model_is_refused(seeing_gguf: Path, tmp_path: Path) -> None:
    [mmproj] = seeing_gguf.parent.glob("mmproj*")
    path = tmp_path / "text.gguf"
    path.write_bytes(seeing_gguf.read_bytes().replace(b"<|image_pad|>", b"<|other_pad|>"))
    command = ("chat", "-m", str(path), "-t", "1", "-c", "512", "--mmproj", str(mmproj), "-i", str(RED))
    line = "the model is text-only: it has no image tokens"
    assert outcome(*command, PROMPT) == (line, "", 65)


def test_contradictory_image_options_are_refused(seeing_gguf: Path) -> None:
    command = ("chat", "-m", str(seeing_gguf), "-i", str(RED), PROMPT)
    line = "--image-min-tokens 200 is more than --image-max-tokens 100"
    assert outcome(*command, "--image-min-tokens", "200", "--image-max-tokens", "100")[::2] == (line, 2)
    assert outcome(*command, "-i", "-", "-i", "-")[::2] == ("-i -: standard input can be one image only", 2)
    line = "invalid value for '--image-max-tokens': 99999 is out of range: it must be a whole number from 1 to 16,384"
    assert outcome(*command, "--image-max-tokens", "99999")[::2] == (line, 2)


def test_image_larger_than_the_context_is_refused(seeing_gguf: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1000, 1000), "red").save(tmp_path / "large.png")
    line, hint, code = outcome(
        "chat", "-m", str(seeing_gguf), "-t", "1", "-c", "256", "-i", str(tmp_path / "large.png"), PROMPT
    )
    assert line == "prompt has 987 tokens, context is 256"
    assert (hint, code) == ("-c 1024 makes room for it, --image-max-tokens makes images smaller", 65)
