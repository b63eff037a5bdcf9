"""`docs/reference/json-output.md` and `batch-records.md`: the fields of each JSON object that comes out or goes in.

Which fields there are is read from the source: the annotated fields of a class, or the keys of the one dict literal
that has certain keys. What a field means is in `fields.toml`. A field without a description is an error, and so is a
description without a field. Classes are found by their name and literals by their keys, wherever they are.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenctl.models.sampling import SAMPLING_OPTIONS

from .markdown import HEAD, table

_FIELDS = Path(__file__).with_name("fields.toml")
_PACKAGES = ("qwenctl", "quantize")
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "None": "null", "Path": "string"}
_SAMPLING_MARK = "<!-- sampling -->"


def json_pages(root: Path) -> dict[str, str]:
    """The text of each page, by its name. Raises ValueError where code and descriptions do not agree."""
    source = Source(root)
    pages = tomllib.loads(_FIELDS.read_text(encoding="utf-8"))
    return {name: HEAD + _page(page, source) for name, page in pages.items()}


class Source:
    """Every class and every dict literal of the packages below `root`."""

    def __init__(self, root: Path) -> None:
        paths = sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py"))
        nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        self._classes: dict[str, list[ast.ClassDef]] = {}
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                self._classes.setdefault(node.name, []).append(node)
        self._literals = [node for node in nodes if isinstance(node, ast.Dict)]

    def class_fields(self, name: str) -> dict[str, str]:
        """The annotated fields of the class `name` with their JSON types, those of its bases first."""
        found = self._classes.get(name, [])
        if len(found) != 1:
            raise ValueError(f"{len(found)} classes are called {name}")
        fields: dict[str, str] = {}
        for base in found[0].bases:
            if isinstance(base, ast.Name) and base.id in self._classes:
                fields |= self.class_fields(base.id)
        for node in found[0].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                fields[_alias(node) or node.target.id] = json_type(ast.unparse(node.annotation))
        return fields

    def literal_fields(self, keys: Sequence[str], described: Collection[str]) -> dict[str, str]:
        """The keys of the dict literal that has all of `keys`; of several the one that agrees with `described`."""
        found = {tuple(_keys(node)) for node in self._literals if set(keys) <= set(_keys(node))}
        if len(found) > 1:
            found = {names for names in found if set(names) == set(described)}
        if len(found) != 1:
            raise ValueError(f"{len(found)} dict literals have the keys {', '.join(keys)}")
        return dict.fromkeys(found.pop(), "")


def json_type(annotation: str) -> str:
    """The JSON type that a Python annotation means: "string", "list of integer", "string or null"."""
    text = annotation.strip()
    if text.startswith("Annotated["):
        inner, rest = _bracketed(text.removeprefix("Annotated"))
        return json_type(_split(inner, ",")[0] + rest)
    options = _split(text, "|")
    if len(options) > 1:
        return " or ".join(dict.fromkeys(json_type(option) for option in options))
    name, bracket, _ = text.partition("[")
    if not bracket:
        return _TYPES.get(
            name, "list" if name == "Tools" else "object" if name[:1].isupper() or name[:1] == "_" else name
        )
    inner, _ = _bracketed(text[len(name) :])
    if name == "Literal":
        return ", ".join(f"`{value}`".replace("'", '"').replace("False", "false") for value in _split(inner, ","))
    if name in ("list", "tuple", "Sequence"):
        return f"list of {json_type(_split(inner, ',')[0])}"
    return "object"


def _alias(node: ast.AnnAssign) -> str:
    """The name in JSON of a field of pydantic that has another one."""
    found = re.search(r"alias='([^']+)'", ast.unparse(node))
    return found[1] if found else ""


def _keys(node: ast.Dict) -> Iterator[str]:
    return (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _bracketed(text: str) -> tuple[str, str]:
    """What is inside the brackets that `text` begins with, and what follows them."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if not depth:
            return text[1:at], text[at + 1 :]
    raise ValueError(f"no annotation: {text}")


def _split(text: str, separator: str) -> list[str]:
    """`text` at each `separator` that is in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == separator and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _page(page: Mapping[str, Any], source: Source) -> str:
    sections, problems = "", []
    for one in page["object"]:
        try:
            sections += _section(one, source)
        except ValueError as error:
            problems.append(f"fields.toml, {one['title']}: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    text = f"# {page['title']}\n\n{page['intro'].strip()}\n{sections}"
    return text.replace(_SAMPLING_MARK, _sampling_table())


def _section(one: Mapping[str, Any], source: Source) -> str:
    text = f"\n{'#' * one.get('level', 2)} {one['title']}\n\n"
    text += f"{one['intro'].strip()}\n" if "intro" in one else ""
    if "fields" in one:
        text += "\n" if "intro" in one else ""
        types = (
            source.class_fields(one["class"]) if "class" in one else source.literal_fields(one["keys"], one["fields"])
        )
        text += table(("field", "type", "meaning"), list(_rows(one, types)))
    return text


def _rows(one: Mapping[str, Any], types: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """The rows of an object. A description is "TYPE: text" where the code has no type, or another than JSON's."""
    described = one["fields"]
    if set(types) != set(described):
        missing, extra = sorted(set(types) - set(described)), sorted(set(described) - set(types))
        raise ValueError(f"not described {missing}, not in the code {extra}")
    for name, text in described.items():
        given, colon, meaning = text.partition(": ")
        if not (colon and ("class" not in one or given.startswith("="))):
            given, meaning = types[name], text
        yield f"`{name}`", given.removeprefix("="), meaning


def _sampling_table() -> str:
    rows = [
        (f"`{option.field}`", f"`--{name}`", _range(option.minimum, option.maximum), option.help)
        for name, option in SAMPLING_OPTIONS.items()
    ]
    return table(("field", "option", "range", "meaning"), rows).rstrip("\n")


def _range(lowest: float, highest: float) -> str:
    ends = [f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (lowest, highest)]
    return f"{ends[0]} to {ends[1]}" if highest != 2**31 - 1 else f"from {ends[0]}"
