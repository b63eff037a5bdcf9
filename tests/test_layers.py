"""The structure of the code: who imports whom, and how long things are. Each check is shown to fail on a bad tree."""

from __future__ import annotations

import ast
import graphlib
import statistics
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.source_tree import PACKAGES, functions, imports, length, public_definitions, read_modules

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. A module imports from lower layers and from its own, never from a higher one.
LAYERS = (
    ("quantize", "quantize.*"),
    ("qwenctl", "qwenctl.errors"),
    (
        "qwenctl.engine",
        "qwenctl.protocol.messages",
        "qwenctl.engine.interface",
        "qwenctl.protocol.codec",
        "qwenctl.protocol.placement",
        "qwenctl.protocol.batch",
        "qwenctl.protocol.messages",
        "qwenctl.protocol.media",
    ),
    (
        "qwenctl.terminal.sanitize",
        "qwenctl.terminal.sanitize",
        "qwenctl.terminal.signals",
        "qwenctl.files.paths",
        "qwenctl.charts.svg",
    ),
    ("qwenctl.files.atomic", "qwenctl.files.atomic", "qwenctl.files.media_files"),
    (
        "qwenctl.models.gguf_check",
        "qwenctl.models.mmproj",
        "qwenctl.models.sampling",
        "qwenctl.models.context_memory",
    ),
    ("qwenctl.placement", "qwenctl.machine.profile"),
    ("qwenctl.machine", "qwenctl.machine.*", "qwenctl.models.context_memory"),
    ("qwenctl.backend_check", "qwenctl.backend_check.*"),
    ("qwenctl.hub", "qwenctl.hub.*"),
    ("qwenctl.placement.*",),
    ("qwenctl.doctor", "qwenctl.doctor.*"),
    ("qwenctl.engine.*",),
    ("qwenctl.terminal.streams", "qwenctl.models.sampling", "qwenctl.views.answer", "qwenctl.views.quantization"),
    ("qwenctl.views.pull", "qwenctl.views.plan", "qwenctl.views.models"),
    ("qwenctl.bench", "qwenctl.bench.*"),
    ("qwenctl.tune", "qwenctl.tune.*"),
    ("qwenctl.tools", "qwenctl.tools.*"),
    ("qwenctl.chat.pipe", "qwenctl.chat", "qwenctl.chat.*"),
    ("qwenctl.batch", "qwenctl.batch.*"),
    ("qwenctl.views.batch",),
    ("qwenctl.settings.usage_errors", "qwenctl.settings", "qwenctl.settings.*"),
    ("qwenctl.commands", "qwenctl.commands.*"),
    ("qwenctl.cli",),
    ("qwenctl.__main__",),
)

# What the parent's side of the process boundary may know of the engine; the rest of it runs in the child.
PARENT_SIDE = tuple(
    f"qwenctl.engine{name}"
    for name in (
        "",
        ".protocol",
        ".wire",
        ".contract",
        ".client",
        ".ending",
        ".placement",
        ".batch_protocol",
        ".measure_protocol",
        ".media_protocol",
    )
)

_CHILD = ("qwenctl.engine.*",)  # but for the parent's side
_CHECKING = ("qwenctl.backend_check.evaluation", "qwenctl.backend_check.check_worker")
_TERMINAL = ("qwenctl.chat.*", "qwenctl.views.quantization", "qwenctl.p*_console", "qwenctl.views.models")
IMPORTERS = {
    "PIL": ("qwenctl.engine.vision.images",),
    "av": ("qwenctl.engine.vision.video",),
    "click": (),
    "gguf": ("quantize.*",),
    "httpx2": ("qwenctl.hub.*", "qwenctl.batch.backends.openai_client", "qwenctl.files.media_files"),
    "huggingface_hub": ("qwenctl.hub.*",),
    "jinja2": ("qwenctl.engine.prompt.chat_template",),
    "llama_cpp": ("quantize.ggml.library", "qwenctl.machine.ggml", "qwenctl.machine.device_probe", *_CHECKING, *_CHILD),
    "markdown_it": ("qwenctl.chat.*",),
    "numpy": (
        "quantize.*",
        "qwenctl.backend_check.tiny_model",
        "qwenctl.backend_check.evaluation",
        *_CHECKING,
        *_CHILD,
    ),
    "pillow_heif": ("qwenctl.engine.vision.images",),
    "prompt_toolkit": _TERMINAL,
    "pydantic": (
        "qwenctl.tools.python_worker",
        "qwenctl.batch.input.record_schema",
        "qwenctl.batch.input.message_schema",
    ),
    "pydantic_core": ("qwenctl.tools.python_worker",),
    "rich": _TERMINAL,
    "torch": (),
    "transformers": (),
    "typer": ("qwenctl.cli", "qwenctl.commands.*", "qwenctl.settings.*", "qwenctl.settings.usage_errors"),
}

FILE_LINES, FUNCTION_LINES, MEDIAN_FUNCTION_LINES = 300, 60, 12


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _layer(name: str) -> int | None:
    """The layer that names the module itself, else the one whose pattern it fits."""
    exact = [number for number, patterns in enumerate(LAYERS) if name in patterns]
    fitting = [number for number, patterns in enumerate(LAYERS) if _matches(name, patterns)]
    return next(iter(exact + fitting), None)


def _may_import(name: str, package: str) -> bool:
    """The parent's side of the boundary is only meant where it is named."""
    allowed = IMPORTERS[package]
    return _matches(name, allowed) and (name not in PARENT_SIDE or name in allowed)


def modules_without_layer(root: Path) -> list[str]:
    return [name for name in read_modules(root) if _layer(name) is None]


def upward_imports(root: Path) -> list[str]:
    modules = read_modules(root)
    pairs = [(name, wanted) for name, module in modules.items() for wanted in imports(module, modules) & set(modules)]
    return sorted(f"{name} imports {wanted}" for name, wanted in pairs if (_layer(name) or 0) < (_layer(wanted) or 0))


def quantize_imports_of_qwenctl(root: Path) -> list[str]:
    modules = read_modules(root)
    return [
        f"{name} imports {wanted}"
        for name, module in modules.items()
        if name.split(".")[0] == "quantize"
        for wanted in imports(module, modules)
        if wanted.split(".")[0] == "qwenctl"
    ]


def import_cycle(root: Path) -> list[str]:
    modules = read_modules(root)
    graph = {name: (imports(module, modules) & set(modules)) - {name} for name, module in modules.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def forbidden_imports(root: Path) -> list[str]:
    modules = read_modules(root)
    return sorted(
        f"{name} imports {wanted}"
        for name, module in modules.items()
        for wanted in imports(module, modules)
        if wanted.split(".")[0] in IMPORTERS and not _may_import(name, wanted.split(".")[0])
    )


def child_modules_in_the_parent(root: Path) -> list[str]:
    modules = read_modules(root)
    return sorted(
        f"{name} imports {wanted}"
        for name, module in modules.items()
        if name in PARENT_SIDE or not name.startswith("qwenctl.engine.")
        for wanted in imports(module, modules)
        if wanted.startswith("qwenctl.engine.") and wanted not in PARENT_SIDE
    )


def long_files(root: Path) -> list[str]:
    paths = (path for folder in (*PACKAGES, "tests") for path in sorted((root / folder).rglob("*.py")))
    lengths = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in paths}
    return [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > FILE_LINES]


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
    """A folder that is no package is left out of wheels and of type checks by some tools."""
    folders = {module.path.parent for module in read_modules(root).values()}
    return sorted(str(folder.relative_to(root)) for folder in folders if not (folder / "__init__.py").exists())


Check = Callable[[Path], list[str]]
LONG = "def f():\n" + "    x = 1\n" * 60
BAD_TREES: list[tuple[Check, dict[str, str]]] = [
    (modules_without_layer, {"qwenctl/stray.py": ""}),
    (upward_imports, {"qwenctl/chat/pipe.py": "from qwenctl import cli", "qwenctl/cli.py": ""}),
    (
        upward_imports,
        {"qwenctl/errors.py": "def f():\n    from .chat import loop", "qwenctl/chat/interactive/loop.py": ""},
    ),
    (quantize_imports_of_qwenctl, {"quantize/plan.py": "def f():\n    import qwenctl.errors"}),
    (import_cycle, {"quantize/a.py": "import quantize.b", "quantize/b.py": "def f():\n    from . import a"}),
    (forbidden_imports, {"qwenctl/cli.py": "import click"}),
    (forbidden_imports, {"qwenctl/chat/pipe.py": "from rich.console import Console"}),
    (forbidden_imports, {"qwenctl/commands/a.py": "import importlib\nimportlib.import_module('llama_cpp.llama_cpp')"}),
    (forbidden_imports, {"qwenctl/engine/client.py": "import llama_cpp"}),
    (forbidden_imports, {"quantize/convert.py": "import typer"}),
    (
        child_modules_in_the_parent,
        {"qwenctl/chat/pipe.py": "import qwenctl.engine.model", "qwenctl/engine/model.py": ""},
    ),
    (
        child_modules_in_the_parent,
        {"qwenctl/engine/client.py": "from .text import x", "qwenctl/engine/sampling/detokenizer.py": ""},
    ),
    (long_files, {"quantize/a.py": "x = 1\n" * 301}),
    (long_files, {"tests/test_a.py": "x = 1\n" * 301}),
    (long_functions, {"quantize/a.py": LONG}),
    (high_median, {"quantize/a.py": LONG}),
    (missing_docstrings, {"quantize/a.py": "x = 1"}),
    (missing_docstrings, {"quantize/a.py": '"""A."""\nclass B: pass'}),
    (missing_docstrings, {"quantize/a.py": '"""A."""\ndef f(): pass'}),
    (folders_without_init, {"qwenctl/protocol/messages.py": ""}),
]
CHECKS = list(dict.fromkeys(check for check, _ in BAD_TREES))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_tree_has_none_of(check: Check) -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(("check", "files"), BAD_TREES)
def test_the_check_finds(check: Check, files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert check(tmp_path) != []


def test_a_function_is_measured_without_its_docstring_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "quantize").mkdir()
    (tmp_path / "quantize/a.py").write_text(
        '@d\ndef f(\n    x,\n):\n    """One.\n\n    Two.\n    """\n\n    return x\n'
    )
    assert list(function_lengths(tmp_path).values()) == [4]
