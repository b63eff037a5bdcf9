"""Limits of sizes and counts, unique names, and docstrings. Each check is also shown to fail on a bad tree."""

from __future__ import annotations

import ast
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.source_tree import PACKAGES, functions, length, public_definitions, read_modules

FILE_LINES, SHORTEST_FILE_LINES, FOLDER_MODULES = 400, 40, 15
FUNCTION_LINES, MEDIAN_FUNCTION_LINES = 60, 12

# Modules shorter than the minimum, with reasons.
SHORT = {
    "qwenctl.__main__": "entry of `python -m qwenctl`",
    "qwenctl.machine.rpc_server": "entry of a child process",
    "qwenctl.http_retry": "boundary: downloads and batches share it, and neither may import the other",
    "qwenctl.engine.request_errors": "boundary: what crosses from any part of the child to its worker",
    "qwenctl.engine.llama.common_prefix": "boundary: used and tested without libllama",
    "qwenctl.commands.models.rm": "entry of a command",
}
# Module names used in several packages, with reasons.
SHARED_NAMES = {
    "batch": "the messages, the view and the chart of a batch",
    "bench": "a command and its chart",
    "command": "the entry of a command that has a folder",
    "errors": "one tree of errors a package",
    "plan": "a command, its value, view and chart; `quantize.plan` is public",
    "prefixes": "a command and what it lists",
    "pull": "a command, its steps and its view",
    "sessions": "a command and what it lists",
    "worker": "a command, and the engine's process",
}


def long_files(root: Path) -> list[str]:
    paths = (path for folder in (*PACKAGES, "tests") for path in sorted((root / folder).rglob("*.py")))
    lengths = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in paths}
    return [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > FILE_LINES]


def short_files(root: Path) -> list[str]:
    return [
        f"{name}: {lines} lines"
        for name, module in read_modules(root).items()
        if module.path.name != "__init__.py"
        and (lines := len(module.path.read_text().splitlines())) < SHORTEST_FILE_LINES
        and name not in SHORT
    ]


def full_folders(root: Path) -> list[str]:
    paths = [module.path for module in read_modules(root).values() if module.path.name != "__init__.py"]
    counts = Counter(path.parent.relative_to(root).as_posix() for path in paths)
    return [f"{folder}: {number} modules" for folder, number in counts.items() if number > FOLDER_MODULES]


def repeated_module_names(root: Path) -> list[str]:
    names = Counter(module.path.stem for module in read_modules(root).values() if not module.path.name.startswith("__"))
    return [f"{name}: {number} modules" for name, number in names.items() if number > 1 and name not in SHARED_NAMES]


def repeated_class_names(root: Path) -> list[str]:
    names = Counter(
        node.name
        for module in read_modules(root).values()
        for node in public_definitions(module)
        if isinstance(node, ast.ClassDef)
    )
    return [f"{name}: {number} classes" for name, number in names.items() if number > 1]


def function_lengths(root: Path) -> dict[str, int]:
    return {
        f"{module.name}:{function.lineno} {function.name}": length(function, module.path.read_text().splitlines())
        for module in read_modules(root).values()
        for function in functions(module)
    }


def long_functions(root: Path) -> list[str]:
    return [f"{name}: {lines} lines" for name, lines in function_lengths(root).items() if lines > FUNCTION_LINES]


def high_median(root: Path) -> list[str]:
    median = statistics.median(function_lengths(root).values())
    return [f"median of {median} lines"] if median > MEDIAN_FUNCTION_LINES else []


def missing_docstrings(root: Path) -> list[str]:
    modules = read_modules(root)
    silent = [name for name, module in modules.items() if ast.get_docstring(module.tree) is None]
    for name, module in modules.items():
        silent += [f"{name}.{node.name}" for node in public_definitions(module) if ast.get_docstring(node) is None]
    return silent


def folders_without_init(root: Path) -> list[str]:
    """Folders without `__init__.py`, which some tools leave out of wheels and type checks."""
    folders = {module.path.parent for module in read_modules(root).values()}
    return sorted(str(folder.relative_to(root)) for folder in folders if not (folder / "__init__.py").exists())


Check = Callable[[Path], list[str]]
LONG = "def f():\n" + "    x = 1\n" * 60
BAD_TREES: list[tuple[Check, dict[str, str]]] = [
    (long_files, {"quantize/a.py": "x = 1\n" * 401}),
    (long_files, {"tests/test_a.py": "x = 1\n" * 401}),
    (short_files, {"quantize/a.py": "x = 1\n" * 39}),
    (full_folders, {f"quantize/a{number}.py": "" for number in range(16)}),
    (repeated_module_names, {"quantize/a.py": "", "qwenctl/chat/a.py": ""}),
    (repeated_class_names, {"quantize/a.py": "class A: pass", "qwenctl/chat/b.py": "class A: pass"}),
    (long_functions, {"quantize/a.py": LONG}),
    (high_median, {"quantize/a.py": LONG}),
    (missing_docstrings, {"quantize/a.py": "x = 1"}),
    (missing_docstrings, {"quantize/a.py": '"""A."""\nclass B: pass'}),
    (missing_docstrings, {"quantize/a.py": '"""A."""\ndef f(): pass'}),
    (folders_without_init, {"qwenctl/protocol/messages.py": ""}),
]


@pytest.mark.parametrize("check", dict.fromkeys(check for check, _ in BAD_TREES))
def test_source_tree_passes_the_check(check: Check) -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(("check", "files"), BAD_TREES)
def test_check_finds_a_bad_tree(check: Check, files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert check(tmp_path) != []


def test_listed_exceptions_are_still_needed() -> None:
    """Entries that are no longer exceptions must be removed."""
    modules = read_modules(ROOT)
    lengths = {name: len(module.path.read_text().splitlines()) for name, module in modules.items()}
    names = Counter(module.path.stem for module in modules.values())
    assert [name for name in SHORT if lengths.get(name, FILE_LINES) >= SHORTEST_FILE_LINES] == []
    assert [name for name in SHARED_NAMES if names[name] < 2] == []


def test_function_length_excludes_docstring_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "quantize").mkdir()
    (tmp_path / "quantize/a.py").write_text(
        '@d\ndef f(\n    x,\n):\n    """One.\n\n    Two.\n    """\n\n    return x\n'
    )
    assert list(function_lengths(tmp_path).values()) == [4]
