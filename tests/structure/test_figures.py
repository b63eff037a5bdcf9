"""The figures of a source tree are what a small tree, counted by hand, has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.figures import cycles, longest_chain, quantile, read_tree, rows, table

FILES = {
    "qwenctl/__init__.py": '"""A package."""\n',
    "qwenctl/errors.py": '"""Errors."""\n\n\nclass Failure(Exception):\n    pass\n',
    "qwenctl/chat/loop.py": '''"""A loop.

Of two paragraphs.
"""

from typing import Any, cast

from qwenctl.errors import Failure  # to raise it


def run_loop(a: Any, b=1, c=1, d=1, e=1, f=1, *, g=1):
    """Run it."""
    # Nothing to do.
    return cast(int, a)


def _again():
    from qwenctl.engine import client

    wishes = client.ask(1, 2, 3, 4, 5, 6, 7, 8)
    raise Failure(wishes)
''',
    "qwenctl/engine/client.py": '''from typing import Protocol


class Failure(Protocol):
    """One more of that name."""

    def ask(self): ...


def load():
    from qwenctl.chat import loop
''',
    "tests/test_loop.py": """import pytest

from qwenctl.chat.loop import run_loop


def test_loop():
    assert run_loop(1) == 1
    with pytest.raises(TypeError):
        run_loop()
""",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("modules", "3"),
        ("raw lines", "38"),
        ("lines of code", "15"),
        ("code lines of a module: median / p90 / max", "5 / 8 / 8"),
        ("modules of a folder: max", "1"),
        ("lines of a function: median / p75 / p90 / p99 / max", "2.5 / 3 / 4 / 4 / 4"),
        ("functions of at most 3 / 5 lines", "75 % / 100 %"),
        ("own imports of a module, at its top: median / p90 / max", "0 / 1 / 1"),
        ("the same, in functions too", "1 / 2 / 2"),
        ("imports in functions", "2"),
        ("cycles of modules", "chat.loop, engine.client"),
        ("cycles of packages", "chat, engine"),
        ("imported by most", "`chat.loop` 1, `engine.client` 1, `errors` 1"),
        ("modules imported by exactly one", "3 (100 %)"),
        ("classes / Protocols; with docstring", "2 / 1; 50 %"),
        ("public functions; with docstring; words (median)", "3; 33 %; 2"),
        ("comments / docstring lines for 100 lines of code", "13.3 / 53.3"),
        ("base names / public class names used twice", "0 / 1"),
        ("retired words in identifiers, tests included", "2"),
        ("lines with `Any` / calls of `cast`", "2 / 1"),
        ("calls with 8 positional arguments or more", "1"),
        ("functions with 7 parameters or more", "1"),
        ("tests: files, functions, lines of code", "1, 1, 6"),
        ("assertions (`assert`, `pytest.raises`)", "2"),
        ("source modules that no test imports", "2 (67 %)"),
    ],
)
def test_figure_is_what_the_tree_has(figure: str, value: str, tree: Path) -> None:
    assert dict(rows(read_tree(tree)))[figure] == value


def test_table_has_a_column_for_each_tree(tree: Path) -> None:
    figures = rows(read_tree(tree))
    lines = table({"before": figures, "after": figures}).splitlines()
    assert lines[0] == "| figure | before | after |"
    assert lines[2] == "| modules | 3 | 3 |"
    assert len(lines) == 2 + len(figures)


def test_quantile_is_a_value_that_occurs() -> None:
    assert quantile([4, 1, 3, 2], 0.5) == 2
    assert quantile([1], 0.9) == 1
    assert quantile([], 0.9) == 0


def test_chain_is_the_longest_and_a_cycle_is_found_once() -> None:
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": set[str]()}
    assert longest_chain(graph) == 4
    assert cycles(graph) == []
    assert cycles({**graph, "d": {"b"}}) == [["b", "c", "d"]]
