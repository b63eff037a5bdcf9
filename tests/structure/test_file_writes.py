"""Raw writes and renames are where they are done in full. Each check is also shown to fail on a bad tree."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.source_tree import read_modules

# Modules that call the system's write, each in a loop until all is written.
WRITERS = {
    "quantize.file_system": "`write_all`, which all others use",
    "qwenctl.engine.client": "a pipe",
    "qwenctl.engine.event_writer": "a pipe",
    "qwenctl.engine.prompt.template_process": "a pipe, without waiting",
    "qwenctl.tools.python_worker": "a pipe, in a process that imports nothing of this program",
}
_WRITES, _RENAMES = ("write", "pwrite", "writev", "pwritev", "sendfile"), ("replace", "rename", "renames")


def _calls(root: Path) -> list[tuple[str, ast.Call, str, bool]]:
    """Module, call, method and whether it is one of `os`, for all method calls."""
    return [
        (name, node, node.func.attr, isinstance(node.func.value, ast.Name) and node.func.value.id == "os")
        for name, module in read_modules(root).items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]


def raw_writes(root: Path) -> list[str]:
    return sorted(
        f"{name}:{call.lineno} os.{method}"
        for name, call, method, is_os in _calls(root)
        if is_os and method in _WRITES and name not in WRITERS
    )


def renames_without_sync(root: Path) -> list[str]:
    """Renames, which `replace_files` makes durable; `Path.replace` has one argument, `str.replace` has two."""
    return sorted(
        f"{name}:{call.lineno} {method}"
        for name, call, method, is_os in _calls(root)
        if method in _RENAMES and (is_os or (len(call.args) == 1 and not call.keywords))
        if name != "quantize.file_system"
    )


def writes_that_are_not_in_a_loop(root: Path) -> list[str]:
    """Modules in WRITERS with more writes than loops."""
    modules = read_modules(root)
    found = []
    for name in WRITERS.keys() & modules.keys():
        loops = [node for node in ast.walk(modules[name].tree) if isinstance(node, ast.While)]
        looped = {id(node) for loop in loops for node in ast.walk(loop)}
        # A first write outside is allowed in a function that has a loop with another one.
        functions = [node for node in ast.walk(modules[name].tree) if isinstance(node, ast.FunctionDef)]
        found += [
            f"{name}:{function.lineno}"
            for function in functions
            if (writes := [node for node in ast.walk(function) if _is_os_write(node)])
            and not any(id(node) in looped for node in writes)
        ]
    return sorted(found)


def _is_os_write(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {f"os.{name}" for name in _WRITES}


Check = Callable[[Path], list[str]]
BAD_TREES: list[tuple[Check, dict[str, str]]] = [
    (raw_writes, {"quantize/a.py": "import os\nos.pwrite(1, b'', 0)"}),
    (renames_without_sync, {"quantize/a.py": "import os\nos.replace('a', 'b')"}),
    (renames_without_sync, {"qwenctl/a.py": "def f(path):\n    path.replace('b')"}),
    (
        writes_that_are_not_in_a_loop,
        {"qwenctl/engine/client.py": "import os\ndef f():\n    os.write(1, b'')\n    while g():\n        pass"},
    ),
]


@pytest.mark.parametrize("check", list(dict.fromkeys(check for check, _ in BAD_TREES)))
def test_source_tree_passes_the_check(check: Check) -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(("check", "files"), BAD_TREES)
def test_check_finds_a_bad_tree(check: Check, files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert check(tmp_path) != []
