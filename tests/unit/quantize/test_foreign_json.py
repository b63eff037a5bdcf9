"""The reader of JSON from a disk or a network, and what the conversion does with any JSON in a checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from quantize.checkpoint import open_checkpoint
from quantize.errors import QuantizeError
from quantize.foreign_json import MAX_DEPTH, BadJSON, as_object, parse_json, parse_object, read_json_object
from quantize.plan import QuantizeOptions, make_plan
from tests.support.json_values import JSON_VALUES, nested, places, replaced
from tests.support.paths import TOY

JSON_FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip


@examples(max_examples=50, deadline=None)
@given(JSON_VALUES)
def test_json_is_read_as_the_standard_library_does(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert json.dumps(parse_json(text.encode(), object)) == json.dumps(value)


@given(st.binary(max_size=60) | st.text(max_size=60), st.sampled_from([dict, list, str, object]))
def test_anything_is_read_or_refused_with_one_line(data: bytes | str, expected: type) -> None:
    problem = ""
    try:
        parsed = parse_json(data, expected)
    except BadJSON as error:
        problem = str(error)
    assert problem.isprintable() if problem else isinstance(parsed, expected)


@given(st.integers(1, 3 * MAX_DEPTH), st.sampled_from("[{"))
def test_depth_is_limited(depth: int, bracket: str) -> None:
    text = nested(depth, bracket)
    if depth <= MAX_DEPTH:
        assert parse_json(text, object) is not None
    else:
        with pytest.raises(BadJSON, match="more than 100 levels of brackets"):
            parse_json(text, object)


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_depth_beyond_the_stack_is_refused_in_the_same_way(depth: int) -> None:
    for text in (nested(depth, "["), nested(depth, "{"), "[" * depth):
        with pytest.raises(BadJSON, match=r"more than 100 levels of brackets|Expecting"):
            parse_json(text, object)


def test_brackets_in_texts_are_no_levels() -> None:
    assert parse_object(json.dumps({"a": "[" * 1000})) == {"a": "[" * 1000}


def test_size_type_and_half_a_character_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadJSON, match="more than 5 bytes"):
        parse_json("[1,2,3]", list, 5)
    with pytest.raises(BadJSON, match="not a JSON object"):
        parse_object("[]")
    with pytest.raises(BadJSON, match="half of a surrogate pair"):
        parse_object(r'{"a": "\ud800"}')
    assert parse_object(r'{"a": "\ud83d\ude00"}') == {"a": "😀"}
    with pytest.raises(BadJSON, match="weight_map is not a JSON object"):
        as_object([], "weight_map")
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json_object(tmp_path / "a.json") == as_object({"a": 1}, "it")
    with pytest.raises(BadJSON, match="more than 7 bytes"):
        read_json_object(tmp_path / "a.json", 7)


# ------------------------------------------------------------------ the files of a checkpoint


def checkpoint_with(folder: Path, name: str, content: bytes) -> Path:
    """The toy checkpoint with another content in the file `name`."""
    for path in TOY.iterdir():
        target = folder / path.name
        with suppress(FileExistsError):
            target.symlink_to(path)
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    return folder


def convert(folder: Path) -> None:
    """Plan the conversion of `folder`, which reads all its JSON files and makes the headers."""
    make_plan(folder, folder / "out.gguf", QuantizeOptions("Q8_0", vision=True))


def refusals(folder: Path, name: str, content: bytes) -> Iterator[QuantizeError]:
    """The error of a conversion, if there is one."""
    try:
        convert(checkpoint_with(folder, name, content))
    except QuantizeError as error:
        yield error


@pytest.mark.parametrize("name", [*JSON_FILES, "model.safetensors.index.json"])
@pytest.mark.parametrize("content", [nested(100_000, "["), nested(100_000, "{"), '{"a": ' + nested(500, "[") + "}"])
def test_deeply_nested_file_of_a_checkpoint_is_refused_with_its_name(tmp_path: Path, name: str, content: str) -> None:
    [error] = refusals(tmp_path, name, content.encode())
    assert name in error.message


@pytest.mark.parametrize("name", JSON_FILES)
@examples(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_value_in_a_file_of_a_checkpoint_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    fields = json.loads((TOY / name).read_text())
    place = data.draw(st.sampled_from(places(fields)))
    content = json.dumps(replaced(fields, place, data.draw(JSON_VALUES))).encode()
    for error in refusals(tmp_path_factory.mktemp("toy"), name, content):
        assert "\n" not in error.message


def shard(header: bytes, data: bytes = b"") -> bytes:
    """A safetensors file."""
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize("header", [nested(100_000, "["), nested(100_000, "{"), '{"a": ' + nested(500, "[") + "}"])
def test_deeply_nested_header_of_a_shard_is_refused(tmp_path: Path, header: str) -> None:
    [error] = refusals(tmp_path, "model.safetensors", shard(header.encode()))
    assert error.message.startswith("model.safetensors has a damaged header")


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@examples(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_value_in_the_header_of_a_shard_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    fields = {"a": ENTRY, "__metadata__": {"format": "pt"}}
    header = json.dumps(replaced(fields, data.draw(st.sampled_from(places(fields))), data.draw(JSON_VALUES))).encode()
    folder = tmp_path_factory.mktemp("toy")
    with suppress(QuantizeError):
        open_checkpoint(checkpoint_with(folder, "model.safetensors", shard(header, bytes(16))))


@examples(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_value_in_the_index_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    names = dict.fromkeys(list(open_checkpoint(TOY).tensors)[:3], "model.safetensors")
    fields = {"metadata": {"total_size": 1}, "weight_map": names}
    index = json.dumps(replaced(fields, data.draw(st.sampled_from(places(fields))), data.draw(JSON_VALUES))).encode()
    folder = tmp_path_factory.mktemp("toy")
    with suppress(QuantizeError):
        open_checkpoint(checkpoint_with(folder, "model.safetensors.index.json", index))
