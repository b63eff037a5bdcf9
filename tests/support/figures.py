"""The figures of a source tree as a Markdown table: sizes, imports, documentation, types, tests.

    python -m tests.support.figures [ROOT ...]

One column a checkout; this one, if none is named. The sources are read and never imported, so that a checkout of any
age can be measured. A "line of code" is one that has neither only a comment nor a docstring in it, and is not blank.
"""

from __future__ import annotations

import ast
import io
import math
import re
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.source_tree import (
    Function,
    Module,
    functions,
    identifiers,
    imports,
    length,
    module_level_imports,
    public_definitions,
    read_modules,
    words,
)

Graph = Mapping[str, set[str]]
Row = tuple[str, str]  # (figure, value)
_HAS_DOCSTRING = ast.Module | ast.ClassDef | Function
_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True)
class FileLines:
    """How many lines of a file are what."""

    raw: int
    code: int
    comments: int
    docstrings: int


@dataclass(frozen=True)
class SourceTree:
    """The modules of a checkout with what is asked of them more than once; packages are modules, too."""

    modules: Mapping[str, Module]
    tests: Mapping[str, Module]
    lines: Mapping[str, FileLines] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "lines", {name: count_lines(module) for name, module in {**self.modules, **self.tests}.items()}
        )

    @cached_property
    def files(self) -> dict[str, Module]:
        """The modules of the packages without `__init__`."""
        return {name: module for name, module in self.modules.items() if module.path.name != "__init__.py"}

    @cached_property
    def graph(self) -> dict[str, set[str]]:
        """The own modules that each imports, in functions too."""
        return {
            name: (imports(module, self.modules) & set(self.modules)) - {name} for name, module in self.modules.items()
        }

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the packages' sources."""
        return [node for module in self.modules.values() for node in ast.walk(module.tree)]

    @cached_property
    def code_lines(self) -> int:
        """Lines of code of the packages."""
        return sum(self.lines[name].code for name in self.modules)


def read_tree(root: Path) -> SourceTree:
    """The packages and the tests of the checkout at `root`."""
    return SourceTree(read_modules(root), read_modules(root, ["tests"]))


def count_lines(module: Module) -> FileLines:
    """Count the lines of a module; a line with code and a comment counts as both."""
    text = module.path.read_text()
    docstrings = docstring_lines(module.tree)
    code: set[int] = set()
    comments = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        comments += token.type == tokenize.COMMENT
        if token.type not in _NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return FileLines(len(text.splitlines()), len(code - docstrings), comments, len(docstrings))


def docstring_lines(tree: ast.Module) -> set[int]:
    """The numbers of all lines that belong to docstrings."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, _HAS_DOCSTRING) and ast.get_docstring(node) is not None:
            found.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return found


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0


def spread(values: Sequence[float], *shares: float) -> str:
    """The median, the quantiles at `shares` and the maximum."""
    middle = statistics.median(values) if values else 0
    numbers = [middle, *(quantile(values, share) for share in shares), max(values, default=0)]
    return " / ".join(f"{number:g}" for number in numbers)


def percent(part: int, whole: int) -> str:
    """`part` of `whole` in percent."""
    return f"{100 * part / whole:.0f} %" if whole else "-"


def cycles(graph: Graph) -> list[list[str]]:
    """The groups of nodes that reach one another, each sorted."""
    reached = {node: _reachable(graph, node) for node in graph}
    groups = {tuple(sorted({node, *(other for other in reached[node] if node in reached[other])})) for node in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def longest_chain(graph: Graph) -> int:
    """The number of nodes on the longest way through `graph`; where it has cycles, without their last edges."""
    depths: dict[str, int] = {}

    def depth(node: str) -> int:
        if node not in depths:
            depths[node] = 0  # while it is computed: an edge back to it adds nothing
            depths[node] = 1 + max((depth(target) for target in graph.get(node, ())), default=0)
        return depths[node]

    return max(map(depth, graph), default=0)


def merge_nodes(graph: Graph, group: Callable[[str], str]) -> dict[str, set[str]]:
    """The graph of the groups that the nodes belong to."""
    merged: dict[str, set[str]] = {}
    for node, targets in graph.items():
        merged.setdefault(group(node), set()).update({group(target) for target in targets} - {group(node)})
    return merged


def package_of(module: str) -> str:
    """The package of a module: `quantize`, or the folder or loose module right below `qwenctl`."""
    return ".".join(module.split(".")[: 1 if module.startswith("quantize") else 2])


def repeated(names: Iterable[Hashable]) -> int:
    """How many names occur more than once."""
    return sum(number > 1 for number in Counter(names).values())


def size_rows(tree: SourceTree) -> Iterator[Row]:
    """How large modules and functions are."""
    code = [tree.lines[name].code for name in tree.files]
    yield "modules", str(len(code))
    yield "raw lines", f"{sum(tree.lines[name].raw for name in tree.modules):,}"
    yield "lines of code", f"{tree.code_lines:,}"
    yield "code lines of a module: median / p90 / max", spread(code, 0.9)
    below = " / ".join(str(sum(lines < limit for lines in code)) for limit in (40, 60, 100))
    yield "modules under 40 / 60 / 100 lines of code", below
    folders = Counter(module.path.parent for module in tree.files.values())
    yield "modules of a folder: max", str(max(folders.values(), default=0))
    lengths = [number for module in tree.modules.values() for number in _function_lengths(module)]
    yield "lines of a function: median / p75 / p90 / p99 / max", spread(lengths, 0.75, 0.9, 0.99)
    shares = [percent(sum(number <= limit for number in lengths), len(lengths)) for limit in (3, 5)]
    yield "functions of at most 3 / 5 lines", " / ".join(shares)
    yield "functions over 40 / 60 lines", " / ".join(str(sum(n > limit for n in lengths)) for limit in (40, 60))


def _function_lengths(module: Module) -> Iterator[int]:
    source = module.path.read_text().splitlines()
    return (length(function, source) for function in functions(module))


def import_rows(tree: SourceTree) -> Iterator[Row]:
    """Who imports whom."""
    own = set(tree.modules)
    at_top = [len(module_level_imports(module, tree.modules) & own - {name}) for name, module in tree.files.items()]
    yield "own imports of a module, at its top: median / p90 / max", spread(at_top, 0.9)
    yield "the same, in functions too", spread([len(tree.graph[name]) for name in tree.files], 0.9)
    inner = [node for module in tree.modules.values() for node in _inner_imports(module)]
    yield "imports in functions", str(len(inner))
    yield "cycles of modules", _names(cycles(tree.graph))
    yield "cycles of packages", _names(cycles(merge_nodes(_without_top(tree.graph), package_of)))
    yield "floors: longest chain of imports", str(longest_chain(tree.graph))
    engine = {name: targets for name, targets in tree.graph.items() if name.startswith("qwenctl.engine")}
    inside = {name: {target for target in targets if target in engine} for name, targets in engine.items()}
    yield "the same within `qwenctl.engine`", str(longest_chain(inside))
    importers = Counter(target for targets in tree.graph.values() for target in targets if target in tree.files)
    most = sorted(importers.items(), key=lambda item: (-item[1], item[0]))[:5]
    yield "imported by most", ", ".join(f"`{name.removeprefix('qwenctl.')}` {number}" for name, number in most)
    single = sum(number == 1 for number in importers.values())
    yield "modules imported by exactly one", f"{single} ({percent(single, len(tree.files))})"


def _without_top(graph: Graph) -> dict[str, set[str]]:
    """Without `qwenctl` itself, which is the version."""
    return {name: targets - {"qwenctl"} for name, targets in graph.items() if name != "qwenctl"}


def _inner_imports(module: Module) -> set[ast.AST]:
    """The import statements within functions."""
    inner = {node for function in functions(module) for node in ast.walk(function)}
    return {node for node in inner if isinstance(node, ast.Import | ast.ImportFrom)}


def _names(groups: Sequence[Sequence[str]]) -> str:
    return "; ".join(", ".join(name.removeprefix("qwenctl.") for name in group) for group in groups) or "none"


def text_rows(tree: SourceTree) -> Iterator[Row]:
    """Documentation and names."""
    classes = [node for node in tree.nodes if isinstance(node, ast.ClassDef)]
    protocols = sum(any(ast.unparse(base) == "Protocol" for base in node.bases) for node in classes)
    described = percent(sum(ast.get_docstring(node) is not None for node in classes), len(classes))
    yield "classes / Protocols; with docstring", f"{len(classes)} / {protocols}; {described}"
    public = list(public_functions(tree))
    docstrings = list(filter(None, map(ast.get_docstring, public)))
    typical = statistics.median(len(text.split()) for text in docstrings) if docstrings else 0
    share = percent(len(docstrings), len(public))
    yield "public functions; with docstring; words (median)", f"{len(public):,}; {share}; {typical:g}"
    comments, lines = (
        100 * sum(getattr(tree.lines[name], kind) for name in tree.modules) / (tree.code_lines or 1)
        for kind in ("comments", "docstrings")
    )
    yield "comments / docstring lines for 100 lines of code", f"{comments:.1f} / {lines:.1f}"
    stems = (name.rpartition(".")[2] for name in tree.files if not name.endswith("__main__"))
    public_classes = (
        node.name
        for module in tree.modules.values()
        for node in public_definitions(module)
        if isinstance(node, ast.ClassDef)
    )
    yield "base names / public class names used twice", f"{repeated(stems)} / {repeated(public_classes)}"
    used = [name for module in {**tree.modules, **tree.tests}.values() for name, _ in identifiers(module.tree)]
    retired = read_retired_words(ROOT)
    yield (
        "retired words in identifiers, tests included",
        f"{sum(not retired.isdisjoint(words(name)) for name in used):,}",
    )


def public_functions(tree: SourceTree) -> Iterator[Function]:
    """The public functions of modules and the public methods of public classes."""
    for module in tree.modules.values():
        for node in public_definitions(module):
            members = node.body if isinstance(node, ast.ClassDef) else [node]
            yield from (each for each in members if isinstance(each, Function) and not each.name.startswith("_"))


def read_retired_words(root: Path) -> set[str]:
    """The words that tests/structure/test_names.py keeps out of identifiers."""
    tree = ast.parse((root / "tests/structure/test_names.py").read_text())
    values = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["RETIRED"]
    )
    return set(ast.literal_eval(next(values)))


def type_rows(tree: SourceTree) -> Iterator[Row]:
    """What goes around the type checker, and what is called with many arguments."""
    texts = [module.path.read_text() for module in tree.modules.values()]
    lines = sum(bool(re.search(r"\bAny\b", line)) for text in texts for line in text.splitlines())
    casts = sum(called(node) in ("cast", "typing.cast") for node in tree.nodes)
    yield "lines with `Any` / calls of `cast`", f"{lines} / {casts}"
    crowded = sum(isinstance(node, ast.Call) and len(node.args) >= 8 for node in tree.nodes)
    yield "calls with 8 positional arguments or more", str(crowded)
    yield "functions with 7 parameters or more", str(sum(
        isinstance(node, Function) and count_parameters(node) >= 7 for node in tree.nodes
    ))  # fmt: skip


def called(node: ast.AST) -> str:
    """What `node` calls, as "name" or "module.name"; empty if it is no such call."""
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)):
            return f"{module}.{name}"
    return ""


def count_parameters(function: Function) -> int:
    """The parameters of a function without `self` and `cls`."""
    given = function.args
    named = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def test_rows(tree: SourceTree) -> Iterator[Row]:
    """The tests."""
    nodes = [node for module in tree.tests.values() for node in ast.walk(module.tree)]
    tests = [node for node in nodes if isinstance(node, Function) and node.name.startswith("test_")]
    code = sum(tree.lines[name].code for name in tree.tests)
    files = len([module for module in tree.tests.values() if module.path.name != "__init__.py"])
    yield "tests: files, functions, lines of code", f"{files}, {len(tests):,}, {code:,}"
    yield "lines of code of tests for one of sources", f"{code / (tree.code_lines or 1):.2f}"
    asserts = sum(isinstance(node, ast.Assert) for node in nodes)
    raises = sum(called(node) == "pytest.raises" for node in nodes)
    yield "assertions (`assert`, `pytest.raises`)", f"{asserts + raises:,}"
    every = {**tree.modules, **tree.tests}
    met = {target for module in tree.tests.values() for target in imports(module, every)}
    unmet = len(tree.files.keys() - met)
    yield "source modules that no test imports", f"{unmet} ({percent(unmet, len(tree.files))})"


def rows(tree: SourceTree) -> list[Row]:
    """All figures of a checkout, in the order of the table."""
    return [*size_rows(tree), *import_rows(tree), *text_rows(tree), *type_rows(tree), *test_rows(tree)]


def table(columns: Mapping[str, list[Row]]) -> str:
    """A Markdown table with a row for each figure and a column for each checkout."""
    heads = ["figure", *columns]
    figures = zip(*columns.values(), strict=True)
    lines = [heads, ["---"] * len(heads), *([each[0][0], *(value for _, value in each)] for each in figures)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(roots: Sequence[str]) -> None:
    """Print the table for the checkouts at `roots`."""
    paths = [Path(root).resolve() for root in roots] or [ROOT]
    print(table({path.name: rows(read_tree(path)) for path in paths}))


if __name__ == "__main__":
    main(sys.argv[1:])
