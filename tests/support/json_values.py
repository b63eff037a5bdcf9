"""JSON values for tests: any, deeply nested, and in the place of any part of another one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["", "/etc/passwd", "../x", "\0", "a\nb"])
_NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 10**30])
_SCALARS = st.none() | st.booleans() | _NUMBERS | _TEXTS
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3), max_leaves=5
)
Place = tuple[str | int, ...]
_MAX_ITEMS = 3  # of each list and object


def nested(depth: int, bracket: str) -> str:
    """The text of a list or an object that is `depth` levels deep; `bracket` is the one that opens a level."""
    return "[" * depth + "]" * depth if bracket == "[" else '{"a":' * (depth - 1) + "{" + "}" * depth


def places(value: Any) -> list[Place]:
    """The places of the parts of `value`, its top first; of long lists and objects only the first few."""
    return list(_iter_places(value, ()))


def _iter_places(value: Any, above: Place) -> Iterator[Place]:
    yield above
    parts: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        parts = list(value.items())[: _MAX_ITEMS if len(value) > 50 else None]
    elif isinstance(value, list):
        parts = list(enumerate(value))[:_MAX_ITEMS]
    for key, inner in parts:
        yield from _iter_places(inner, (*above, key))


def replaced(value: Any, place: Place, to: Any) -> Any:
    """A copy of `value` with `to` at `place`."""
    if not place:
        return to
    made = copy.deepcopy(value)
    inner = made
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = to
    return made
