"""The layout of the tests: their folders, their imports, and which modules have no unit test.

Each check is also shown to fail on a bad tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.source_tree import Module, imports, parse, read_modules

FOLDERS = {"unit", "engine", "cli", "golden", "faults", "structure", "support", "gpu", "vulkan", "benchmarks", "data"}
# Tools that are run by hand: their modules may import each other, and their tests may import them.
TOOLS = ("gpu", "vulkan", "benchmarks")
# Modules that no unit test imports, directly or indirectly, with reasons. A package stands for all its modules.
_LIBLLAMA = "imports libllama, which no unit test may load: tests/engine"
_COMMAND = "a command, which parses its line, runs and prints: tests/cli"
NOT_IN_UNIT_TESTS = {
    "qwenctl.__main__": "entry of `python -m qwenctl`: tests/cli/subprocess",
    "qwenctl.backend_check.check_worker": "entry of a child that runs libllama: tests/faults",
    "qwenctl.backend_check.evaluation": "imports libllama, which no unit test may load: tests/faults",
    "qwenctl.cli": "entry of `qwenctl`, which has all commands: tests/cli",
    "qwenctl.commands.batch.command": _COMMAND,
    "qwenctl.commands.bench": _COMMAND,
    "qwenctl.commands.chat.command": _COMMAND,
    "qwenctl.commands.chat.prefixes": _COMMAND,
    "qwenctl.commands.chat.sessions": _COMMAND,
    "qwenctl.commands.chat.single_answer": "a part of `qwenctl chat` that starts an engine: tests/cli",
    "qwenctl.commands.config": _COMMAND,
    "qwenctl.commands.doctor": _COMMAND,
    "qwenctl.commands.models": "commands only, and what `pull` fetches from a Hub: tests/cli",
    "qwenctl.commands.plan": _COMMAND,
    "qwenctl.commands.quantize.command": _COMMAND,
    "qwenctl.commands.quantize.remote": "fetches from a Hub: tests/cli",
    "qwenctl.commands.tune": _COMMAND,
    "qwenctl.commands.worker": _COMMAND,
    "qwenctl.engine.batching.context": _LIBLLAMA,
    "qwenctl.engine.batching.pinned_prefix": _LIBLLAMA,
    "qwenctl.engine.batching.scheduler": _LIBLLAMA,
    "qwenctl.engine.batching.serve": _LIBLLAMA,
    "qwenctl.engine.batching.slot": _LIBLLAMA,
    "qwenctl.engine.batching.slot_count": _LIBLLAMA,
    "qwenctl.engine.benchmark": _LIBLLAMA,
    "qwenctl.engine.dry_load": _LIBLLAMA,
    "qwenctl.engine.generation": _LIBLLAMA,
    "qwenctl.engine.llama.device_params": _LIBLLAMA,
    "qwenctl.engine.llama.tokenizer": _LIBLLAMA,
    "qwenctl.engine.llama.weights": _LIBLLAMA,
    "qwenctl.engine.model": _LIBLLAMA,
    "qwenctl.engine.prompt.chat_template": _LIBLLAMA,
    "qwenctl.engine.prompt.media_tokens": _LIBLLAMA,
    "qwenctl.engine.prompt.template_process": "starts a process: tests/engine",
    "qwenctl.engine.prompt.template_worker": "entry of a child that runs a chat template: tests/engine",
    "qwenctl.engine.sampling.grammar": _LIBLLAMA,
    "qwenctl.engine.sampling.sampler": _LIBLLAMA,
    "qwenctl.engine.speculative.draft_setup": _LIBLLAMA,
    "qwenctl.engine.worker": _LIBLLAMA,
    "qwenctl.machine.bandwidth_probe": "entry of a child that measures by libggml: tests/engine",
    "qwenctl.machine.rpc_server": "entry of a child that serves by libggml: tests/cli/subprocess",
}


def read_tests(root: Path) -> dict[str, Module]:
    """Every module below `tests`, by name."""
    found = {}
    for path in sorted((root / "tests").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(name, path, parse(path))
    return found


def unknown_folders(root: Path) -> list[str]:
    paths = [path.relative_to(root / "tests") for path in (root / "tests").rglob("test_*.py")]
    return sorted(str(path) for path in paths if path.parts[0] not in FOLDERS or len(path.parts) == 1)


def unit_tests_out_of_place(root: Path) -> list[str]:
    """Unit test folders that mirror no package."""
    folders = {
        path.parent.relative_to(root / "tests" / "unit") for path in (root / "tests" / "unit").rglob("test_*.py")
    }
    return sorted(str(folder) for folder in folders if not (root / folder / "__init__.py").is_file())


def imports_of_other_tests(root: Path) -> list[str]:
    """Imports of test modules outside `tests.support` and the importing module's own tools folder."""
    modules = read_tests(root)
    return sorted(
        f"{name} imports {target}"
        for name, module in modules.items()
        for target in imports(module, modules)
        if target.startswith("tests.") and not _may_import(name, target)
    )


def _may_import(name: str, target: str) -> bool:
    if target == "tests.support" or target.startswith("tests.support."):
        return True
    folder = target.split(".")[1]
    is_test = target.rpartition(".")[2].startswith(("test_", "conftest"))
    return folder in TOOLS and name.split(".")[1] == folder and not is_test


def support_that_is_a_test(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / "tests" / "support").rglob("test_*.py"))


def unmet_modules(root: Path, listed: Mapping[str, str] = NOT_IN_UNIT_TESTS) -> list[str]:
    """Modules that no unit test imports, directly or indirectly, and that are not in `listed`."""
    modules, tests = read_modules(root), read_tests(root)
    every = {**modules, **tests}
    waiting = [name for name in tests if name.startswith("tests.unit.")]
    met = set(waiting)
    while waiting:
        found = {target for target in imports(every[waiting.pop()], every) if target in every} - met
        met |= found
        waiting += found
    known = {name for name in modules for package in listed if f"{name}.".startswith(f"{package}.")}
    packages = {name for name, module in modules.items() if module.path.name == "__init__.py"}
    return sorted(set(modules) - met - known - packages)


Check = Callable[[Path], list[str]]
BAD_TREES: list[tuple[Check, dict[str, str]]] = [
    (unknown_folders, {"tests/test_a.py": ""}),
    (unknown_folders, {"tests/other/test_a.py": ""}),
    (unit_tests_out_of_place, {"tests/unit/qwenctl/other/test_a.py": ""}),
    (imports_of_other_tests, {"tests/unit/test_a.py": "", "tests/unit/test_b.py": "from tests.unit.test_a import x"}),
    (imports_of_other_tests, {"tests/unit/test_a.py": "from tests.conftest import x", "tests/conftest.py": ""}),
    (imports_of_other_tests, {"tests/support/a.py": "def f():\n    import tests.cli.b", "tests/cli/b.py": ""}),
    (imports_of_other_tests, {"tests/gpu/test_a.py": "", "tests/gpu/b.py": "from tests.gpu import test_a"}),
    (imports_of_other_tests, {"tests/cli/test_a.py": "from tests.gpu import b", "tests/gpu/b.py": ""}),
    (support_that_is_a_test, {"tests/support/test_a.py": ""}),
    (unmet_modules, {"qwenctl/a.py": "", "tests/cli/test_a.py": "import qwenctl.a"}),
]


@pytest.mark.parametrize(
    "check",
    [unknown_folders, unit_tests_out_of_place, imports_of_other_tests, support_that_is_a_test, unmet_modules],
)
def test_tests_folder_passes_the_check(check: Check) -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(("check", "files"), BAD_TREES)
def test_check_finds_a_bad_tree(check: Check, files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert check(tmp_path) != []


def test_good_tree_passes_every_check(tmp_path: Path) -> None:
    files = {
        "qwenctl/__init__.py": "",
        "qwenctl/a.py": "from qwenctl import b",
        "qwenctl/b.py": "",
        "tests/support/a.py": "import qwenctl.a",
        "tests/gpu/b.py": "from tests.support import a",
        "tests/gpu/test_b.py": "from tests.gpu import b",
        "tests/unit/qwenctl/test_a.py": "from tests.support import a",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for check, _ in BAD_TREES:
        assert check(tmp_path) == [], check.__name__


def test_listed_modules_exist_and_have_no_unit_test() -> None:
    modules = read_modules(ROOT)
    assert [name for name in NOT_IN_UNIT_TESTS if name not in modules] == []
    unmet = unmet_modules(ROOT, {})
    for name in NOT_IN_UNIT_TESTS:
        assert any(f"{module}.".startswith(f"{name}.") for module in unmet), f"{name} is met by now"
