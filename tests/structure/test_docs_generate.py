"""The generator of reference pages: JSON types, described fields, and text escaped for Markdown and man pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generate.command_line import CommandHelp, ParameterHelp, read_commands
from docs.generate.json_reference import Source, json_type
from docs.generate.man_pages import man_pages
from docs.generate.markdown import escape, table
from docs.generate.mkdocs_hooks import on_page_markdown


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("int", "integer"),
        ("float | None", "number or null"),
        ("Path", "string"),
        ("tuple[str, ...]", "list of string"),
        ("tuple[tuple[str, str], ...]", "list of list of string"),
        ("Mapping[str, Any]", "object"),
        ("LoadParams", "object"),
        ("Tools", "list"),
        ("Literal['a', 'b'] | None", '`"a"`, `"b"` or null'),
        ("Literal[False]", "`false`"),
        ("Annotated[list[Form], Field(min_length=1)] | None", "list of object or null"),
        ("str | dict[str, Any] | None", "string or object or null"),
    ],
)
def test_json_type_of_an_annotation(annotation: str, expected: str) -> None:
    assert json_type(annotation) == expected


def make_source(folder: Path, text: str) -> Source:
    (folder / "qwenctl").mkdir()
    (folder / "qwenctl/a.py").write_text(text)
    return Source(folder)


def test_class_fields_start_with_those_of_the_bases(tmp_path: Path) -> None:
    source = make_source(tmp_path, "class B(A):\n  c: int\nclass A:\n  a: str\n  b_: int = Field(alias='b')\n  x = 1\n")
    assert source.class_fields("B") == {"a": "string", "b": "integer", "c": "integer"}


def test_missing_or_duplicate_class_is_an_error(tmp_path: Path) -> None:
    source = make_source(tmp_path, "class A:\n  a: str\nclass A:\n  b: str\n")
    with pytest.raises(ValueError, match="2 classes are called A"):
        source.class_fields("A")
    with pytest.raises(ValueError, match="0 classes are called B"):
        source.class_fields("B")


def test_dict_literal_is_found_by_its_keys(tmp_path: Path) -> None:
    source = make_source(tmp_path, "x = {'a': 1, 'b': 2, **y}\nz = {'a': 1, 'b': {'c': 3}, 'd': 4}\n")
    assert list(source.literal_fields(["d"], ["a", "b", "d"])) == ["a", "b", "d"]
    assert list(source.literal_fields(["a"], ["a", "b"])) == [
        "a",
        "b",
    ]  # of two literals, the one whose fields are described
    for keys in (["nothing"], ["a"]):
        with pytest.raises(ValueError, match="0 dict literals have the keys"):
            source.literal_fields(keys, ["other"])


def test_plain_text_is_escaped_for_markdown() -> None:
    assert escape("a_b* _c_ [d] <e> | `f_|g`") == "a_b\\* \\_c\\_ [d] &lt;e> \\| `f_|g`"
    assert table(("a", "b"), [("1", "2\n3")]) == "| a | b |\n| --- | --- |\n| 1 | 2 3 |\n"


def test_text_is_escaped_for_man_pages() -> None:
    option = ParameterHelp("-x, --long FILE", ".a dot, an ellipsis … and a \\", "default: 1")
    command = CommandHelp(("a",), "qwenctl a [OPTIONS]", ("It does.",), (), (("Options", (option,)),), ("qwenctl a",))
    (text,) = man_pages([command]).values()
    assert "\\&.a dot, an ellipsis \\[u2026] and a \\e (default: 1)" in text
    assert ".B \\-x, \\-\\-long FILE\n" in text
    assert text.isascii()


def test_every_command_has_help_options_and_an_example() -> None:
    for command in read_commands():
        assert command.paragraphs, command.name
        assert command.examples, command.name
        assert command.usage.startswith(command.name)
        assert all(one.meaning for _, options in command.options for one in options), command.name


def test_links_outside_the_docs_folder_become_plain_text() -> None:
    page = "[a](../CONTRIBUTING.md) [b](../../tests/x.md#y) [c](guides/chat.md)"
    assert on_page_markdown(page) == "a b [c](guides/chat.md)"
