"""Identifiers use the field's established terms; retired home-made words do not come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.source_tree import PACKAGES, identifiers, parse, words

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


def retired_words(root: Path) -> list[str]:
    found = []
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        for name, line in identifiers(parse(path)):
            found += [
                f"{path.relative_to(root)}:{line} {name}: {RETIRED[word]}" for word in words(name) if word in RETIRED
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
