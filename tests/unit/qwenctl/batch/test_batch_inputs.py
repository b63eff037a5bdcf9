"""Reading batch records: each mistake is reported with its line and column, and the other records are read."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.batch.input.readers import InputFormat, read_items
from qwenctl.batch.input.template import Template
from qwenctl.batch.records import GenerationParams, InvalidRecord, Record
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import Message, ToolCall

GOOD = b'{"id": "good", "prompt": "hi"}'
JSONL = InputFormat("jsonl", GenerationParams())


def read(data: bytes, form: InputFormat = JSONL) -> list[Record | InvalidRecord]:
    return list(read_items(io.BytesIO(data), "in", form))


def template(text: str) -> Template:
    return Template.parse(text, "--prompt")


def body(**fields: object) -> bytes:
    return json.dumps({"custom_id": "a", "body": {"messages": [{"role": "user", "content": "x"}], **fields}}).encode()


# The line, the column of its mistake, and words of the reported reason.
MALFORMED: list[tuple[bytes, int, str]] = [
    (b"{", 2, "invalid JSON"),
    (b"}", 1, "invalid JSON"),
    (b"nonsense", 1, "invalid JSON"),
    (b'{"prompt": "hi"', 16, "delimiter"),
    (b'{"prompt": "hi"}}', 17, "extra data"),
    (b'{"prompt": "hi", 5}', 18, "property name"),
    (b'{"prompt" "hi"}', 11, "delimiter"),
    (b"{'prompt': 'hi'}", 2, "property name"),
    (b'{prompt: "hi"}', 2, "property name"),
    (b'{"prompt": "hi}', 12, "unterminated string"),
    (b'{"prompt": "a\tb"}', 14, "control character"),
    (b'{"prompt": "a\\x"}', 14, "escape"),
    (b'{"prompt": "a\x00b"}', 14, "control character"),
    (b"\x00\x00\x00", 1, "invalid JSON"),
    (b'{"prompt": hi}', 12, "expecting value"),
    (b'{"prompt": "a", "seed": 01}', 26, "delimiter"),
    (b'{"prompt": "a", "temperature": NaN}', 32, "NaN is not a number"),
    (b'{"prompt": "a", "temperature": Infinity}', 32, "Infinity is not a number"),
    (b'{"prompt": "a", "temperature": -Infinity}', 32, "-Infinity is not a number"),
    (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", 1, "too many digits"),
    (b'{"prompt": "\xff"}', 13, "0xff is not UTF-8"),
    (b'{"prompt": "caf\xe9"}', 16, "0xe9 is not UTF-8"),
    ('{"prompt": "日本'.encode() + b'\xed\xa0\x80"}', 15, "0xed is not UTF-8"),
    (b'{"prompt": "\\ud800"}', 13, "half of a surrogate pair"),
    (b'{"prompt": "a\\udc00b"}', 14, "half of a surrogate pair"),
    (b'{"prompt": "a", "prompt": "b"}', 17, "duplicate key 'prompt'"),
    (b'{"id": 1, "prompt": "a", "id": 2}', 26, "duplicate key 'id'"),
    (b'{"prompt": "a", "tools": ' + b"[" * 10_000 + b"}", 125, "levels of brackets"),
    (b'{"a":' * 10_000, 501, "levels of brackets"),
    (b"[]", 1, "not a list"),
    (b'[{"prompt": "a"}]', 1, "jq -c '.[]'"),
    (b'"hi"', 1, "not a string"),
    (b"17", 1, "not a number"),
    (b"true", 1, "not true or false"),
    (b"null", 1, "not null"),
    (b"{}", 1, "neither prompt nor messages"),
    (b'{"id": "x"}', 1, "neither prompt nor messages"),
    (b'{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}', 1, "both prompt and messages"),
    (b'{"prompt": 5}', 12, "prompt: input should be a valid string"),
    (b'{"prompt": null, "id": []}', 24, "id"),
    (b'{"promt": "a"}', 11, "unknown key 'promt': did you mean 'prompt'?"),
    (b'{"prompt": "a", "max_token": 5}', 30, "did you mean 'max_tokens'?"),
    (b'{"prompt": "a", "temperature": "hot"}', 32, "temperature: input should be a valid number"),
    (b'{"prompt": "a", "temperature": -1}', 32, "greater than or equal to 0"),
    (b'{"prompt": "a", "top_p": 1.5}', 26, "less than or equal to 1"),
    (b'{"prompt": "a", "top_k": -2}', 26, "greater than or equal to -1"),
    (b'{"prompt": "a", "seed": 1.5}', 25, "valid integer"),
    (b'{"prompt": "a", "max_tokens": -2}', 31, "greater than or equal to -1"),
    (b'{"prompt": "a", "think": "yes"}', 26, "valid boolean"),
    (b'{"prompt": "a", "think": 1}', 26, "valid boolean"),
    (b'{"prompt": "a", "tools": {}}', 26, "valid list"),
    (b'{"prompt": "a", "tools": [{"type": "function"}]}', 27, "no tools.0.function"),
    (
        b'{"prompt": "a", "tools": [{"type": "function", "function": {"name": "f"}}], "grammar": "root ::= x"}',
        1,
        "cannot be used together",
    ),
    (b'{"messages": []}', 14, "at least 1 item"),
    (b'{"messages": [{"role": "user"}, {"role": "king", "content": "x"}]}', 42, "messages.1.role"),
    (b'{"messages": [{"content": "x"}]}', 15, "no messages.0.role"),
    (b'{"messages": [{"role": "user", "content": 5}]}', 43, "messages.0.content"),
    (b'{"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}', 44, "input tag 'input_audio' found"),
    (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', 44, "no messages.0.content.0.image_url"),
    (b'{"messages": "x"}', 14, "messages: input should be a valid list"),
    (
        b'{"system": "a", "messages": [{"role": "system", "content": "b"}]}',
        1,
        "both system and a system message: use only one of them",
    ),
    (b'{"custom_id": "a"}', 1, "no body"),
    (b'{"custom_id": "a", "body": {}}', 28, "no body.messages"),
    (body(n=0), 82, "body.n"),
    (body(stream=True), 87, "body.stream"),
    (body(temprature=1), 91, "did you mean 'temperature'?"),
    (body(response_format={"type": "xml"}), 105, "body.response_format.type"),
    (b'{"custom_id": "a", "url": "/v1/embeddings", "body": {"messages": []}}', 27, "url"),
    (
        body(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
        1,
        "not JSON",
    ),
]


@pytest.mark.parametrize(("line", "column", "words"), MALFORMED)
def test_malformed_line_is_reported_with_column_and_rest_is_read(line: bytes, column: int, words: str) -> None:
    before, bad, after = read(GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    assert isinstance(before, Record)
    assert isinstance(after, Record)
    assert isinstance(bad, InvalidRecord)
    assert words in bad.reason
    assert bad.where == f"in:2:{column}"


def test_malformed_lines_cover_at_least_sixty_mistakes() -> None:
    assert len({line for line, _, _ in MALFORMED}) >= 60


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        GOOD + b"\r\n",
        b"\xef\xbb\xbf" + GOOD + b"\n",
        b"\n\n  \n" + GOOD + b"\n\n",
        b"  " + GOOD + b" \t",
    ],
)
def test_byte_order_mark_crlf_and_blank_lines_are_ignored(data: bytes) -> None:
    [record] = read(data)
    assert isinstance(record, Record)
    assert (record.key, record.messages) == ("good", (Message("user", "hi"),))


def test_line_numbers_count_blank_lines() -> None:
    first, second = read(b'\n{"prompt": "a"}\n\n\n{"prompt": "b"}')
    assert [first.line, second.line, first.key, second.key] == [2, 5, "2", "5"]


def test_line_over_size_limit_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenctl.batch.input.splitter.MAX_RECORD_BYTES", 1000)
    long = b'{"prompt": "' + b"x" * (3 << 20) + b'"}'
    bad, good = read(long + b"\n" + GOOD)
    assert isinstance(bad, InvalidRecord)
    assert "longer than" in bad.reason
    assert isinstance(good, Record)


@pytest.mark.parametrize(
    ("data", "words", "hint"),
    [
        (gzip.compress(GOOD, mtime=0), "is gzip-compressed", "gunzip -c in | qwenctl batch - …"),
        (GOOD.decode().encode("utf-16"), "is UTF-16", "iconv"),
        (b"\x28\xb5\x2f\xfd123", "is zstd-compressed", "zstd"),
        (b"PK\x03\x04", "is a zip archive", "unzip"),
        (b"PAR1", "is a Parquet file", ""),
    ],
)
def test_compressed_or_binary_input_is_refused_as_a_whole(data: bytes, words: str, hint: str) -> None:
    with pytest.raises(QwenctlError, match=words) as caught:
        read(data)
    assert caught.value.code == ExitCode.BAD_DATA
    assert hint in caught.value.hint


def test_short_and_openai_records_are_equal() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    short = {
        "id": "a", "system": "s", "prompt": "x", "temperature": 0.5, "max_tokens": 9, "think": False, "tools": tools,
        "seed": 3, "top_k": 4,
    }  # fmt: skip
    openai = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "any",
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
            ],
            "temperature": 0.5, "max_completion_tokens": 9, "tools": tools, "seed": 3, "top_k": 4,
            "chat_template_kwargs": {"enable_thinking": False},
        },
    }  # fmt: skip
    [one], [other] = read(json.dumps(short).encode()), read(json.dumps(openai).encode())
    assert one == other


def test_tool_calls_and_results_of_earlier_turns_are_parsed() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": "1", "content": "2"})
    [record] = read(json.dumps({"messages": turns}).encode())
    assert isinstance(record, Record)
    assert record.messages[1:] == (Message("assistant", "", "", (ToolCall("f", {"a": 1}),)), Message("tool", "2"))


def test_record_schema_replaces_grammar_of_batch() -> None:
    form = InputFormat("jsonl", GenerationParams(grammar="root ::= x"))
    line = {"prompt": "a", "json_schema": {"type": "integer"}}
    [record] = read(json.dumps(line).encode(), form)
    assert isinstance(record, Record)
    assert (record.params.grammar, record.params.json_schema) == ("", '{"type": "integer"}')


def test_template_uses_record_fields_of_any_name_as_data() -> None:
    form = InputFormat(
        "jsonl", GenerationParams(), template("{seed} {{as is}} {n}: {messages}"), template("Be {mood}."), ("n",)
    )
    line = {"id": 7, "seed": "red", "n": 2, "messages": ["a", "é"], "mood": "kind", "more": None}
    [record] = read(json.dumps(line).encode(), form)
    assert isinstance(record, Record)
    assert record.messages == (Message("system", "Be kind."), Message("user", 'red {as is} 2: ["a", "é"]'))
    assert (record.key, record.passthrough) == ("7", {"n": 2})


def test_record_without_template_field_fails_alone() -> None:
    bad, good = read(b'{"a": 1}\n{"b": "x"}', InputFormat("jsonl", GenerationParams(), template("{b}")))
    assert isinstance(bad, InvalidRecord)
    assert bad.reason == "no field 'b' for the template; available: a"
    assert isinstance(good, Record)


@pytest.mark.parametrize("text", ["{", "}", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>5}", "{a.__class__}"])
def test_template_with_more_than_names_is_refused(text: str) -> None:
    with pytest.raises(QwenctlError, match="--prompt is not a template"):
        template(text)


def test_text_lines_become_prompts() -> None:
    found = read("What is 2 + 3?\r\n\nfünf\n".encode(), InputFormat("lines", GenerationParams()))
    assert [(one.key, one.messages[0].content) for one in found if isinstance(one, Record)] == [
        ("1", "What is 2 + 3?"),
        ("3", "fünf"),
    ]
    [bad] = read(b"a\x1bb", InputFormat("lines", GenerationParams()))
    assert isinstance(bad, InvalidRecord)


def test_lines_that_end_in_carriage_returns_alone_are_not_one_prompt() -> None:
    form = InputFormat("lines", GenerationParams())
    [bad] = read_items(io.BytesIO(b"one\rtwo\rthree\r"), "in", form)
    assert isinstance(bad, InvalidRecord)
    assert bad.reason.startswith("a carriage return: ")
    [record] = read_items(io.BytesIO(b"one\rtwo\0"), "in", replace(form, end=b"\0"))
    assert isinstance(record, Record)


def test_nul_separated_text_may_span_lines() -> None:
    found = read(b"a\nb\0c\0", InputFormat("lines", GenerationParams(), template("<{text}>"), end=b"\0"))
    assert [one.messages[0].content for one in found if isinstance(one, Record)] == ["<a\nb>", "<c>"]
    assert [one.line for one in found] == [1, 2]


def test_file_names_are_replaced_by_file_contents(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("\ufeffA")
    (tmp_path / "b.md").write_bytes(b"\xff\xfe\x00")
    names = f"{tmp_path}/a.md\n{tmp_path}/b.md\n{tmp_path}/c.md\n".encode()
    form = InputFormat("files", GenerationParams(), template("{name}: {file}"))
    good, binary, missing = read(names, form)
    assert isinstance(good, Record)
    assert (good.key, good.messages[0].content) == (f"{tmp_path}/a.md", "a.md: A")
    assert isinstance(binary, InvalidRecord)
    assert binary.reason.endswith("b.md is UTF-16")
    assert isinstance(missing, InvalidRecord)
    assert "no such file" in missing.reason


def test_csv_rows_become_records() -> None:
    form = InputFormat("csv", GenerationParams(), template("{text} into {lang}"), passthrough=("lang",))
    data = 'id,text,lang\n1,"a\nb ""c""",de\n2,x\n\n,y,fr\n4,\xe9\xff,it\n'.encode("latin-1")
    first, short, last, no_text = read(data, form)
    assert isinstance(first, Record)
    assert (first.key, first.line, first.messages[0].content) == ("1", 2, 'a\nb "c" into de')
    assert isinstance(short, InvalidRecord)
    assert (short.where, short.reason) == ("in:4:1", "2 fields where the first line has 3")
    assert isinstance(last, Record)
    assert (last.key, dict(last.passthrough)) == ("6", {"lang": "fr"})
    assert isinstance(no_text, InvalidRecord)
    assert "not UTF-8" in no_text.reason


@pytest.mark.parametrize(
    ("data", "words"), [(b"a,b\n1,2\n", "no column is named 'text'"), (b"text,text\n1,2\n", "two columns")]
)
def test_csv_with_wrong_columns_is_refused_as_a_whole(data: bytes, words: str) -> None:
    with pytest.raises(QwenctlError, match=words):
        read(data, InputFormat("csv", GenerationParams(), template("{text}")))
