"""Tells text from what is no text, by its first bytes: other encodings, archives, pictures, documents, programs.

Bytes come in; what they are goes out, with a hint how to make text of them. Nothing is read or decoded here.
"""

from __future__ import annotations

import codecs
import re
from contextlib import suppress

from qwenctl.errors import ExitCode, QwenctlError, quote

_LOOKED_AT = 8192  # bytes; as many as git looks at
_BINARY = "name the text in it, or convert it to text"
# Begin of the file, what it is, and a hint with {name} and {command}, which reads standard input.
_KINDS = (
    (b"\xff\xfe\0\0", "is UTF-32", "iconv -f UTF-32 -t UTF-8 {name} | {command}"),
    (b"\0\0\xfe\xff", "is UTF-32", "iconv -f UTF-32 -t UTF-8 {name} | {command}"),
    (b"\xff\xfe", "is UTF-16", "iconv -f UTF-16 -t UTF-8 {name} | {command}"),
    (b"\xfe\xff", "is UTF-16", "iconv -f UTF-16 -t UTF-8 {name} | {command}"),
    (b"\x1f\x8b", "is gzip-compressed", "gunzip -c {name} | {command}"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed", "zstd -dc {name} | {command}"),
    (b"\xfd7zXZ\0", "is xz-compressed", "xz -dc {name} | {command}"),
    (b"BZh", "is bzip2-compressed", "bzip2 -dc {name} | {command}"),
    (b"PK\x03\x04", "is a zip archive or an office document", "unzip -p {name} | {command}"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "7z x -so {name} | {command}"),
    (b"Rar!\x1a\x07", "is a RAR archive", "unrar p -inul {name} | {command}"),
    (b"%PDF-", "is a PDF document", "pdftotext {name} - | {command}"),
    (b"PAR1", "is a Parquet file", "convert it to JSON lines, text or CSV"),
    (b"GGUF", "is a GGUF file", "qwenctl show {name}"),
    (b"\x7fELF", "is a program", _BINARY),
    (b"SQLite format 3\0", "is an SQLite database", "sqlite3 {name} .dump | {command}"),
)
_PDF_HEADER = re.compile(rb"%PDF-\d\.\d\s*[\r\n]")
_CONTROL = re.compile(rb"[\0-\x06\x0e-\x1a\x1c-\x1f\x7f]")
_OTHER_ENCODING = "iconv -f ENCODING -t UTF-8 {name} | {command}"  # LATIN1, GBK, CP1251, …
_STRAY = 20  # one byte in so many may be broken, as in logs
_TAR_MARK = slice(257, 262)


def find_other_kind(begin: bytes, *, allows_nul: bool = False) -> tuple[str, str] | None:
    """Return what the file is that begins with `begin`, and a hint with {name} and {command}; None for text.

    Text has no NUL, unless `allows_nul`; then UTF-16 without a byte order mark is still recognized.
    """
    begin = begin[:_LOOKED_AT]
    if not (_CONTROL.search(begin) or _PDF_HEADER.match(begin) or any(begin == magic for magic, _, _ in _KINDS)):
        with suppress(UnicodeDecodeError):
            # Text, whatever its first word is: one may ask what GIF89a means. The last letter may be cut.
            codecs.getincrementaldecoder("utf-8")().decode(begin)
            return None
    for magic, what, hint in _KINDS:
        if begin.startswith(magic) and not (magic == b"BZh" and begin[4:10] != b"1AY&SY"):
            return what, hint
    if begin[_TAR_MARK] == b"ustar":
        return "is a tar archive", "tar -xOf {name} | {command}"
    if b"\0" not in begin and begin[:1].isascii() and not begin.startswith((b"GIF8", b"RIFF", b"\x1a")):
        return None if allows_nul else _other_encoding(begin)  # no picture or video begins so
    if kind := _media_kind(begin[:16]):
        return f"is {kind}", "send it with -i: {name} is read by qwenctl chat -i {name}"
    if endian := _utf16_without_mark(begin):
        return "is UTF-16", f"iconv -f UTF-16{endian} -t UTF-8 {{name}} | {{command}}"
    if b"\0" in begin and not allows_nul:
        return "is not text: it has NUL bytes", _BINARY
    return None if allows_nul else _other_encoding(begin)


def check_text(begin: bytes, name: str, command: str, *, allows_nul: bool = False) -> None:
    """Raise QwenctlError (BAD_DATA) if the first bytes of the file `name` are not those of text in UTF-8.

    `command` is the one to paste behind a conversion.
    """
    found = find_other_kind(begin, allows_nul=allows_nul)
    if found is not None:
        raise not_text_error(found, name, command)


def decode_text(data: bytes, name: str, command: str) -> str:
    """Return the text of the file `name`, without a byte order mark. Raises QwenctlError as `check_text`.

    Not a byte may be of another encoding: nobody would see that it was replaced.
    """
    check_text(data, name, command)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = (f"is not UTF-8 text (byte {error.start:,} is {data[error.start]:#04x})", _OTHER_ENCODING)
        raise not_text_error(found, name, command) from error


def not_text_error(found: tuple[str, str], name: str, command: str) -> QwenctlError:
    """The error for the file `name`, of which `find_other_kind` has `found` what it is."""
    what, hint = found
    return QwenctlError(f"{name} {what}", hint.format(name=quote(name), command=command), ExitCode.BAD_DATA)


def check_standard_input(begin: bytes, command: str) -> None:
    """Like `check_text`, for standard input."""
    found = find_other_kind(begin)
    if found is None:
        return
    what, hint = found
    if "-i {name}" in hint:
        hint = f"{command} -i - sends it as a picture"
    raise QwenctlError(f"standard input {what}", hint.format(name="FILE", command=command), ExitCode.BAD_DATA)


def _other_encoding(begin: bytes) -> tuple[str, str] | None:
    """What a text is that has many bytes that are not UTF-8: one in another encoding."""
    text = begin.decode("utf-8", "replace")
    broken = text.count("\ufffd") - begin.count("\ufffd".encode())
    if broken * _STRAY <= len(begin) or (broken == 1 and text.endswith("\ufffd")):  # the last letter may be cut
        return None
    return "is not UTF-8 text", _OTHER_ENCODING


def _media_kind(head: bytes) -> str:
    from qwenctl.files.media_files import find_media_kind  # here, to keep it out of `--help`

    return {"image": "a picture", "video": "a video", None: ""}[find_media_kind(head)]


def _utf16_without_mark(begin: bytes) -> str:
    """Return "LE" or "BE" if nearly every other byte is NUL, as in UTF-16 of a European language; otherwise ""."""
    even, odd = begin[0::2], begin[1::2]
    if len(odd) < 2:
        return ""
    for name, letters, zeros in (("LE", even, odd), ("BE", odd, even)):
        if zeros.count(0) * 10 >= len(zeros) * 7 and letters.count(0) * 10 < len(letters):
            return name
    return ""
