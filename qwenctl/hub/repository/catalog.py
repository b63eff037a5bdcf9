"""The family's repositories on the Hub by short names, from `catalog.toml`.

A short name comes in, the names of repositories go out; and for a repository that does not exist, the one that was
probably meant. What a repository holds is not known here.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class ModelFamily:
    """The repositories of one model. `fp8` is "" where there is none."""

    name: str
    source: str
    fp8: str
    gguf: tuple[str, ...]

    @property
    def repositories(self) -> tuple[str, ...]:
        """All of them, those that need no conversion first."""
        return tuple(name for name in (*self.gguf, self.source, self.fp8) if name)


@cache
def families() -> dict[str, ModelFamily]:
    """All models of the catalogue, by short name."""
    text = Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8")
    return {
        name: ModelFamily(name, entry["source"], entry.get("fp8", ""), tuple(entry.get("gguf", ())))
        for name, entry in tomllib.loads(text).items()
    }


def find_family(name: str) -> ModelFamily | None:
    """The model with this short name, in any case, or to which this repository belongs."""
    wanted = name.lower()
    return families().get(wanted) or next(
        (family for family in families().values() if wanted in map(str.lower, family.repositories)), None
    )


def nearest_repository(name: str) -> str:
    """The repository or short name that was probably meant by `name`; "" if nothing is near."""
    known = [*families(), *(name for family in families().values() for name in family.repositories)]
    near = min(known, key=lambda one: _distance(name, one))
    return near if _distance(name, near) <= max(2, len(name) // 4) else ""


def _distance(name: str, known: str) -> int:
    """Edits from one name to the other. Who leaves out the size of a mixture's active part makes no mistake."""
    first, second = name.lower(), known.lower()
    if not re.search(r"-a\d+b", first):
        second = re.sub(r"-a\d+b", "", second)
    return _edits(first, second)


def _edits(first: str, second: str) -> int:
    """Characters to be changed, added, left out or swapped with their neighbor (optimal string alignment)."""
    before, row = list[int](), list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        before, last, row = row, before, [i]
        for j, right in enumerate(second, 1):
            best = min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == second[j - 2] and first[i - 2] == right:
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]
