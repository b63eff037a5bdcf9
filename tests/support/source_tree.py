"""The project's source code as data: its modules, their imports, functions and function lengths."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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


def parse(path: Path) -> ast.Module:
    """The syntax tree of a source file. Callers share it, so they must not change it."""
    return _parse(path.read_text(), str(path))


@cache
def _parse(text: str, name: str) -> ast.Module:
    return ast.parse(text, name)


def read_modules(root: Path, folders: Sequence[str] = PACKAGES) -> dict[str, Module]:
    """Every module in `folders` of `root`, by name: of both packages, if not said otherwise."""
    found = {}
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, parse(path))
    return found


def imports(module: Module, modules: Mapping[str, Module]) -> set[str]:
    """The dotted names of all modules that `module` imports, at any level."""
    return _imports_of(ast.walk(module.tree), module, modules)


def module_level_imports(module: Module, modules: Mapping[str, Module]) -> set[str]:
    """The dotted names of the modules that `module` imports when it is imported itself."""
    return _imports_of(_outside_functions(module.tree), module, modules)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if not isinstance(node, Function):
        for child in ast.iter_child_nodes(node):
            yield from _outside_functions(child)


def _imports_of(nodes: Iterable[ast.AST], module: Module, modules: Mapping[str, Module]) -> set[str]:
    found = set()
    for node in nodes:
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


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that the code defines or uses, with its line."""
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


def words(identifier: str) -> list[str]:
    """The words of an identifier, in small letters: "KVCache_size" has "kv", "cache" and "size"."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]
