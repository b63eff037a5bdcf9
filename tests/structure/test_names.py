"""Identifiers use the field's established terms; retired home-made words do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source_tree import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (*PACKAGES, "tests")

# Retired parts of identifiers, with their replacements (docs/internals/glossary.md).
RETIRED = {
    "anew": "again",
    "dear": "blocked_loss",
    "fold": "mrope_offset",
    "folds": "mrope_offsets",
    "foretell": "predict",
    "foretold": "predicted",
    "governor": "draft controller",
    "inlaid": "expanded",
    "inlay": "media_tokens",
    "inlays": "media_tokens",
    "kept": "saved",
    "nobody": "rephrase",
    "owed": "replay",
    "owes": "replay",
    "pace": "throughput",
    "said": "output",
    "sight": "vision",
    "stutter": "outlier",
    "wish": "constraint",
    "wishes": "constraints",
}


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that the code defines or uses, with its line number."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.alias(name=name, asname=other):
                yield other or name, node.lineno
            case _:
                pass


def parts(identifier: str) -> list[str]:
    """The words of an identifier in lower case: "KVCache_size" has "kv", "cache" and "size"."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def retired_words(root: Path) -> list[str]:
    found = []
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        for name, line in identifiers(ast.parse(path.read_text(), str(path))):
            found += [
                f"{path.relative_to(root)}:{line} {name}: {RETIRED[word]}" for word in parts(name) if word in RETIRED
            ]
    return found


def test_identifiers_contain_no_retired_word() -> None:
    assert retired_words(ROOT) == []


@pytest.mark.parametrize(
    "code",
    ["wishes = 1", "def f(kept): ...", "class VisionSight: ...", "x.said()", "f(owed_tokens=1)", "import a as inlays"],
)
def test_retired_word_is_found(code: str, tmp_path: Path) -> None:
    (tmp_path / "quantize").mkdir()
    (tmp_path / "quantize/a.py").write_text(code)
    assert len(retired_words(tmp_path)) == 1
