"""What is no text is recognized by its first bytes, wherever text is read; text in UTF-8 never is."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.batch.input.readers import InputFormat, read_items
from qwenctl.batch.input.template import Template
from qwenctl.batch.records import GenerationParams, InvalidRecord
from qwenctl.chat.attachments import read_attachments
from qwenctl.chat.pipe import read_prompt
from qwenctl.commands.options.common import MAX_TEXT_BYTES, text_or_file
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.text_check import check_text, find_other_kind

TEXT = "What is the capital of France? ¿Dónde está?\n"


def archive(kind: str) -> bytes:
    made = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(made, "w") as zipped:
            zipped.writestr("a.txt", TEXT)
    else:
        with tarfile.open(fileobj=made, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("a.txt"))
    return made.getvalue()


OTHERS = {
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 big-endian with mark": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-16 without mark": TEXT.encode("utf-16-le"),
    "UTF-16 big-endian": TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
    "gzip": gzip.compress(TEXT.encode()),
    "bzip2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "zip": archive("zip"),
    "tar": archive("tar"),
    "PDF": b"%PDF-1.7\nstream",
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "video": b"\0\0\0\x18ftypmp42",
    "GGUF": b"GGUF\x03\0\0\0",
    "ELF": b"\x7fELF\x02",
    "NUL": b"text\0text, and more of it",
}


@pytest.fixture(params=OTHERS, ids=list(OTHERS))
def other(request: pytest.FixtureRequest) -> bytes:
    return OTHERS[request.param]


def refused(error: pytest.ExceptionInfo[QwenctlError]) -> None:
    assert error.value.code == ExitCode.BAD_DATA
    assert " is " in error.value.message
    assert error.value.hint
    assert "{" not in error.value.hint


def test_standard_input_that_is_no_text_is_refused(other: bytes) -> None:
    with pytest.raises(QwenctlError) as error:
        read_prompt(["what?"], io.BytesIO(other), lambda _: None)
    refused(error)


def test_file_that_is_no_text_is_refused(tmp_path: Path, other: bytes) -> None:
    file = tmp_path / "in"
    file.write_bytes(other)
    for read in (lambda: read_attachments(str(file)), lambda: text_or_file(str(file), "::=", "--grammar")):
        with pytest.raises(QwenctlError) as error:
            read()
        refused(error)


def test_file_named_in_a_batch_that_is_no_text_is_an_invalid_record(tmp_path: Path, other: bytes) -> None:
    (tmp_path / "in").write_bytes(other)
    form = InputFormat("files", GenerationParams(), Template.parse("{file}", "--prompt"))
    [item] = read_items(io.BytesIO(f"{tmp_path}/in\n".encode()), "list", form)
    assert isinstance(item, InvalidRecord)


def test_picture_on_standard_input_is_told_how_to_be_sent() -> None:
    with pytest.raises(QwenctlError) as error:
        read_prompt([], io.BytesIO(OTHERS["PNG"]), lambda _: None)
    assert (error.value.message, "-i -" in error.value.hint) == ("standard input is a picture", True)


def test_utf16_is_told_how_to_be_converted() -> None:
    with pytest.raises(QwenctlError) as error:
        check_text(OTHERS["UTF-16"], "in.txt", "qwenctl chat")
    assert error.value.hint == "iconv -f UTF-16 -t UTF-8 in.txt | qwenctl chat"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_text_is_text_in_any_language(text: str) -> None:
    begin = ("x" + text).encode()
    assert find_other_kind(begin) is None
    assert find_other_kind(b"\xef\xbb\xbf" + begin) is None


@pytest.mark.parametrize("word", ["GGUF", "PAR1", "GIF89a", "RIFF", "PK", "Rar!", "%PDF-1.7", "BZh91AY&SY", "ustar"])
def test_text_about_a_format_is_text(word: str) -> None:
    assert find_other_kind(f"{word} is the magic of which format? Give a short answer.\n".encode()) is None
    assert find_other_kind(f"{word}\n".encode() * 9000) is None or word == "%PDF-1.7"


FOREIGN = {
    "gbk": "请问法国的首都是哪里?",
    "cp1251": "Столица Франции?",
    "shift-jis": "フランスの首都",
    "utf-16-le": "请问法国首都",
}


@pytest.mark.parametrize("encoding", FOREIGN)
def test_text_in_another_encoding_is_refused(encoding: str, tmp_path: Path) -> None:
    data = b"" + FOREIGN[encoding].encode(encoding)
    with pytest.raises(QwenctlError, match="is not UTF-8 text") as error:
        read_prompt([], io.BytesIO(data), lambda _: None)
    assert "iconv -f ENCODING -t UTF-8 FILE" in error.value.hint
    (tmp_path / "in").write_bytes(data)
    with pytest.raises(QwenctlError, match="is not UTF-8 text"):
        read_attachments(str(tmp_path / "in"))


def test_single_byte_of_another_encoding_is_warned_of_or_refused_never_replaced_silently(tmp_path: Path) -> None:
    data = b"A long line about a caf\xe9 in the middle of a text that is otherwise plain ASCII. " * 3
    warnings: list[str] = []
    assert "caf\ufffd" in read_prompt([], io.BytesIO(data), warnings.append)
    assert len(warnings) == 1
    file = tmp_path / "in"
    file.write_bytes(data)
    for read in (lambda: read_attachments(str(file)), lambda: text_or_file(str(file), "::=", "--grammar")):
        with pytest.raises(QwenctlError, match=r"is not UTF-8 text \(byte 23 is 0xe9\)"):
            read()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=3))
def test_text_that_is_cut_within_a_letter_is_text(text: str) -> None:
    assert find_other_kind(b"x" + text.encode() * 9000) is None


@pytest.mark.parametrize("text", ["", "a", "BZhou said", "PK", "%PDF", "GIF"])
def test_short_text_is_text(text: str) -> None:
    assert find_other_kind(text.encode()) is None


def test_grammar_of_any_length_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "long.gbnf").write_bytes(b"a" * (MAX_TEXT_BYTES + 1))
    for name, words in (("/dev/zero", "is not text"), (str(tmp_path / "long.gbnf"), "has more than 16 MiB")):
        with pytest.raises(QwenctlError, match=words):
            text_or_file(name, "::=", "--grammar")
