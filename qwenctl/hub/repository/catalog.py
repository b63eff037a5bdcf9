"""The Qwen3.5 family's repositories on the Hub by short name, from `catalog.toml`.

A short name comes in, repository names go out; for a name that does not exist, the one that was probably meant goes
out. What a repository contains is not known here.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_VERSION = re.compile(r"qwen[-_.]?(\d+(?:\.\d+)?)(?![\d.]*b)")


@dataclass(frozen=True)
class ModelFamily:
    """The repositories of one model: the checkpoint `source`, its `fp8` variant ("" if none), and those with `gguf`."""

    name: str
    source: str
    fp8: str
    gguf: tuple[str, ...]

    @property
    def repositories(self) -> tuple[str, ...]:
        """All repositories, those that need no conversion first."""
        return tuple(name for name in (*self.gguf, self.source, self.fp8) if name)


@cache
def load_families() -> dict[str, ModelFamily]:
    """All models of the catalog, by short name."""
    text = Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8")
    return {
        name: ModelFamily(name, entry["source"], entry.get("fp8", ""), tuple(entry.get("gguf", ())))
        for name, entry in tomllib.loads(text).items()
    }


def find_family(name: str) -> ModelFamily | None:
    """Find a model by its short name or by one of its repositories, ignoring case; None if there is none."""
    key = name.lower()
    return load_families().get(key) or next(
        (family for family in load_families().values() if key in map(str.lower, family.repositories)), None
    )


def nearest_repository(name: str) -> str:
    """The repository or short name that `name` probably means; "" if none is similar enough.

    Never `name` itself, nor another generation of models: Qwen3.5 is no misspelling of Qwen3.6.
    """
    family = find_family(name)
    if family is not None:  # nothing is misspelled: the same model elsewhere
        return next((other for other in family.repositories if other.lower() != name.lower()), "")
    known = [*load_families(), *(name for family in load_families().values() for name in family.repositories)]
    near = min(
        (candidate for candidate in known if is_same_generation(name, candidate)),
        key=lambda candidate: _distance(name, candidate),
        default="",
    )
    return near if near and _distance(name, near) <= max(2, len(name) // 4) else ""


def is_same_generation(name: str, other: str) -> bool:
    """Whether two names may be of one generation of models: they have the same version, or one has none."""
    versions = [_VERSION.search(text.lower()) for text in (name, other)]
    return len({found[1].replace(".", "") for found in versions if found}) < 2


def _distance(name: str, known: str) -> int:
    """The edit distance between two names. Leaving out the number of active parameters ("-a3b") costs nothing."""
    first, second = name.lower(), known.lower()
    if not re.search(r"-a\d+b", first):
        second = re.sub(r"-a\d+b", "", second)
    return _edit_distance(first, second)


def _edit_distance(first: str, second: str) -> int:
    """The optimal string alignment distance: insertions, deletions, substitutions and swaps of adjacent characters."""
    # Dynamic programming over three rows: row[j] is the distance between first[:i] and second[:j]; a swap looks back
    # two rows.
    previous, row = list[int](), list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        previous, before_previous, row = row, previous, [i]
        for j, right in enumerate(second, 1):
            best = min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (left != right))
            if i > 1 and j > 1 and left == second[j - 2] and first[i - 2] == right:
                best = min(best, before_previous[j - 2] + 1)
            row.append(best)
    return row[-1]
