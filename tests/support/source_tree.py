"""The project's source code as data: its modules, their imports, functions and function lengths."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("quantize", "qwenctl")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file. `name` is dotted; an `__init__.py` has the name of its package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


def read_modules(root: Path) -> dict[str, Module]:
    """Every module of both packages below `root`, by name."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(path.read_text(), str(path)))
    return found


def imports(module: Module, modules: Mapping[str, Module]) -> set[str]:
    """The dotted names of all modules that `module` imports, at any level."""
    found = set()
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=source, names=names, level=level):
                start = ".".join(filter(None, [_relative(module, level), source]))
                inner = {f"{start}.{alias.name}" for alias in names}
                found |= {name if name in modules else start for name in inner}
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if _imports_by_name(func):
                found.add(name)
    return found


def _relative(module: Module, level: int) -> str:
    return ".".join(module.package.split(".")[: len(module.package.split(".")) + 1 - level]) if level else ""


def _imports_by_name(function: ast.expr) -> bool:
    return ast.unparse(function) in ("importlib.import_module", "import_module", "__import__")


def functions(module: Module) -> Iterator[Function]:
    """Every function of `module`, including methods and nested functions."""
    return (node for node in ast.walk(module.tree) if isinstance(node, Function))


def length(function: Function, source: list[str]) -> int:
    """The lines of a function from `def` to its end, without docstring and blank lines."""
    first, last = function.body[0], function.end_lineno or function.lineno
    lines = set(range(function.lineno, last + 1))
    if ast.get_docstring(function) is not None:
        lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return sum(1 for number in lines if source[number - 1].strip())


def public_definitions(module: Module) -> Iterator[Function | ast.ClassDef]:
    """The top-level functions and classes whose names do not start with an underscore."""
    for node in module.tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
