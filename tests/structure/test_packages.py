"""Which packages may import which. Each check is also shown to fail on a bad tree."""

from __future__ import annotations

import graphlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.source_tree import imports, read_modules

# The packages from the bottom up, each with its permitted imports; all may import `qwenctl` itself (the version).
MAY_IMPORT = {
    "quantize": "",
    "errors": "quantize",
    "http_retry": "",
    "child_process": "",
    "protocol": "",
    "terminal": "errors",
    "files": "quantize errors protocol",
    "models": "quantize errors protocol",
    "settings": "errors files",
    "machine": "errors child_process files",
    "tools": "errors protocol terminal",
    "backend_check": "quantize errors child_process files machine",
    "hub": "quantize errors http_retry files models machine",
    "placement": "quantize errors child_process protocol models machine",
    "engine": "quantize errors child_process protocol files models machine backend_check",
    "batch": "quantize errors http_retry protocol terminal files models tools",
    "bench": "protocol machine placement",
    "doctor": "quantize errors files models machine backend_check hub",
    "tune": "errors protocol files models machine placement",
    "charts": "quantize errors protocol files placement bench",
    "loading": "errors protocol terminal files models machine backend_check hub placement engine batch tune",
    "views": "quantize errors protocol terminal machine hub placement batch charts",
    "chat": "quantize errors protocol terminal files models tools engine views",
    "commands": "quantize errors protocol terminal files models settings machine tools backend_check hub placement"
    " engine batch bench doctor tune charts loading views chat",
    "cli": "errors terminal settings commands",
    "__main__": "cli",
}

# The engine modules that the program's process may import; the others run in the child process.
ENGINE_BOUNDARY = ("qwenctl.engine.client", "qwenctl.engine.interface", "qwenctl.engine.ending")

# Which packages may import libraries that are heavy or belong in one place only.
LIBRARIES = {
    "PIL": "qwenctl.engine.vision",
    "av": "qwenctl.engine.vision",
    "click": "",
    "gguf": "quantize",
    "httpx2": "qwenctl.hub qwenctl.batch.backends qwenctl.files",
    "huggingface_hub": "qwenctl.hub",
    "jinja2": "qwenctl.engine.prompt",
    "llama_cpp": "quantize.ggml qwenctl.machine qwenctl.backend_check qwenctl.engine",
    "markdown_it": "qwenctl.chat.interactive",
    "msgspec": "qwenctl.protocol",
    "numpy": "quantize qwenctl.backend_check qwenctl.engine",
    "pillow_heif": "qwenctl.engine.vision",
    "prompt_toolkit": "qwenctl.chat.interactive",
    "pydantic": "qwenctl.tools qwenctl.batch.input",
    "pydantic_core": "qwenctl.tools",
    "rich": "qwenctl.chat.interactive qwenctl.views",
    "torch": "",
    "transformers": "",
    "typer": "qwenctl.cli qwenctl.commands qwenctl.settings",
}


def package_of(module: str) -> str:
    """The name in MAY_IMPORT of the package that `module` belongs to; "qwenctl" for the version."""
    parts = module.split(".")
    return parts[0] if parts[0] == "quantize" or len(parts) == 1 else parts[1]


def unlisted_packages(root: Path) -> list[str]:
    return sorted({package_of(name) for name in read_modules(root)} - {"qwenctl"} - MAY_IMPORT.keys())


def upward_imports(root: Path) -> list[str]:
    """Imports of packages that MAY_IMPORT does not permit."""
    modules = read_modules(root)
    pairs = {(name, target) for name, module in modules.items() for target in imports(module, modules) & set(modules)}
    return sorted(
        f"{name} imports {target}"
        for name, target in pairs
        if package_of(target) not in ("qwenctl", package_of(name), *MAY_IMPORT.get(package_of(name), "").split())
    )


def unused_permissions(root: Path) -> list[str]:
    """Permissions that no import uses."""
    modules = read_modules(root)
    used: dict[str, set[str]] = {}
    for name, module in modules.items():
        targets = imports(module, modules) & set(modules)
        used.setdefault(package_of(name), set()).update(map(package_of, targets))
    return [
        f"{package} may import {target}"
        for package, targets in MAY_IMPORT.items()
        for target in targets.split()
        if target not in used.get(package, set())
    ]


def permissions_that_point_up(_root: Path) -> list[str]:
    order = list(MAY_IMPORT)
    return [
        f"{package} may import {target}"
        for package, targets in MAY_IMPORT.items()
        for target in targets.split()
        if order.index(target) >= order.index(package)
    ]


def module_cycle(root: Path) -> list[str]:
    return _cycle(root, lambda name: name)


def subpackage_cycle(root: Path) -> list[str]:
    """A cycle among the folders of one package; the package's own modules may import them and be imported by them."""
    modules = read_modules(root)
    return _cycle(root, lambda name: "" if _is_top(modules[name].package) else modules[name].package)


def _is_top(package: str) -> bool:
    """Whether a folder is `quantize`, `qwenctl` or one of its packages."""
    return package == "quantize" or (package.startswith("qwenctl") and package.count(".") < 2)


def _cycle(root: Path, node: Callable[[str], str]) -> list[str]:
    modules = read_modules(root)
    graph: dict[str, set[str]] = {}
    for name, module in modules.items():
        targets = {node(target) for target in imports(module, modules) & set(modules)}
        graph.setdefault(node(name), set()).update(targets - {node(name), ""})
    graph.pop("", None)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def _is_within(name: str, packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages.split())


def forbidden_libraries(root: Path) -> list[str]:
    modules = read_modules(root)
    return sorted(
        f"{name} imports {target}"
        for name, module in modules.items()
        for target in imports(module, modules)
        if (library := target.split(".")[0]) in LIBRARIES
        and (name in ENGINE_BOUNDARY or not _is_within(name, LIBRARIES[library]))
    )


def child_modules_in_the_parent(root: Path) -> list[str]:
    modules = read_modules(root)
    allowed = ("qwenctl.engine", *ENGINE_BOUNDARY)
    return sorted(
        f"{name} imports {target}"
        for name, module in modules.items()
        if name in allowed or not name.startswith("qwenctl.engine.")
        for target in imports(module, modules)
        if target.startswith("qwenctl.engine") and target not in allowed
    )


Check = Callable[[Path], list[str]]
BAD_TREES: list[tuple[Check, dict[str, str]]] = [
    (unlisted_packages, {"qwenctl/stray.py": ""}),
    (upward_imports, {"qwenctl/chat/pipe.py": "from qwenctl import cli", "qwenctl/cli.py": ""}),
    (upward_imports, {"qwenctl/errors.py": "def f():\n    from .chat import loop", "qwenctl/chat/loop.py": ""}),
    (upward_imports, {"quantize/plan.py": "def f():\n    import qwenctl.errors", "qwenctl/errors.py": ""}),
    (unused_permissions, {"qwenctl/__main__.py": ""}),
    (module_cycle, {"quantize/a.py": "import quantize.b", "quantize/b.py": "def f():\n    from . import a"}),
    (
        subpackage_cycle,
        {
            "quantize/a/b.py": "import quantize.c.d",
            "quantize/c/d.py": "",
            "quantize/c/e.py": "def f():\n    import quantize.a.b",
        },
    ),
    (forbidden_libraries, {"qwenctl/cli.py": "import click"}),
    (forbidden_libraries, {"qwenctl/chat/pipe.py": "from rich.console import Console"}),
    (
        forbidden_libraries,
        {"qwenctl/commands/a.py": "import importlib\nimportlib.import_module('llama_cpp.llama_cpp')"},
    ),
    (forbidden_libraries, {"qwenctl/engine/client.py": "import llama_cpp"}),
    (forbidden_libraries, {"quantize/convert.py": "import typer"}),
    (
        child_modules_in_the_parent,
        {"qwenctl/chat/pipe.py": "import qwenctl.engine.model", "qwenctl/engine/model.py": ""},
    ),
    (child_modules_in_the_parent, {"qwenctl/engine/client.py": "from .kv import x", "qwenctl/engine/kv/x.py": ""}),
]


@pytest.mark.parametrize("check", [*dict.fromkeys(check for check, _ in BAD_TREES), permissions_that_point_up])
def test_source_tree_passes_the_check(check: Check) -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(("check", "files"), BAD_TREES)
def test_check_finds_a_bad_tree(check: Check, files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert check(tmp_path) != []


def test_upward_permission_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAY_IMPORT, "errors", "cli")
    assert permissions_that_point_up(ROOT) == ["errors may import cli"]
