"""Tab completion in bash, zsh and fish, with the scripts that the program prints."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantize.recipe.recipes import RECIPES
from qwenctl.settings.toml import local_settings_path
from tests.support.terminal import Terminal

SCRIPTS = Path(sys.executable).parent
PROGRAM = SCRIPTS / "qwenctl"
NAMES = ["2026-01-02-hello", "été_2", "2026-01-01-b"]  # latest first
FILES = ["a.gguf", "models/b.gguf", "models/c.gguf", "models/deep/d.gguf", "x y.gguf", "$(touch bad).gguf", "e"]
needs = {
    shell: pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell} here")
    for shell in ("bash", "zsh", "fish")
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, toy_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with models and a broken settings file; saved conversations; and a cache with models."""
    snapshot = tmp_path / "hf" / "hub" / "models--Qwen--Toy-GGUF" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for quant in ("Q8_0", "Q4_K_M"):
        (snapshot / f"Toy-{quant}.gguf").symlink_to(toy_gguf)
    sessions = tmp_path / "data" / "qwenctl" / "sessions"
    for age, name in enumerate([*NAMES, "my chat", "$(touch bad)"]):
        (sessions / name).mkdir(parents=True)
        (sessions / name / "conversation.json").write_text("{}")
        os.utime(sessions / name / "conversation.json", (1e9 - age, 1e9 - age))
    here = tmp_path / "here"
    for file in (
        "a.gguf",
        "models/b.gguf",
        "models/c.gguf",
        "models/deep/d.gguf",
        "x y.gguf",
        "$(touch bad).gguf",
        "e",
    ):
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        (here / file).touch()
    (here / local_settings_path()).write_text("[broken")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", f"{SCRIPTS}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # hides models that other tests quantized
    yield here
    assert not (here / "bad").exists()


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env={**os.environ, **environment}
    )
    assert done.stderr == ""
    return done.stdout


@functools.cache
def script(shell: str) -> str:
    """The output of `--show-completion` in a shell; the program finds the shell among its parent processes."""
    return run(shell, "-c", f"'{PROGRAM}' --show-completion; true")


def in_bash(*words: str) -> list[str]:
    return run(
        "bash", "--norc", "-c",
        f'{script("bash")}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _qwenctl_completion qwenctl; '
        'printf "%s\\n" "${COMPREPLY[@]}"',
        "bash", *words,
    ).split()  # fmt: skip


def in_fish(*words: str) -> list[str]:
    lines = run("fish", "--no-config", "-c", f'{script("fish")}\ncomplete -C "{" ".join(words)}"').splitlines()
    return [line.split("\t")[0] for line in lines if line]


def in_zsh(*words: str) -> list[str]:
    """The values that typer gives to zsh. `test_tab_inserts_the_completion` tests zsh itself."""
    done = run(str(PROGRAM), _QWENCTL_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=" ".join(words))
    text = done.removeprefix("_arguments '*: :((").strip().removesuffix("))'")
    values = [line.split('":"')[0].strip('"').replace(r"\\:", ":") for line in text.splitlines()]
    return values if text != "_files" else []


Q4 = [name for name in RECIPES if name.startswith("Q4")]
CASES = [
    (["quantize", "--type", "Q4"], Q4),
    (["chat", "-ctk", "q4"], ["q4_0", "q4_1"]),
    (["chat", "--cache-type-v", "b"], ["bf16"]),
    (["chat", "--cache"], ["--cache-type-k", "--cache-type-v"]),
    (["chat", "--resume", "2026"], [NAMES[0], NAMES[2]]),
    (["sessions", "show", "é"], ["été_2"]),
    (["sessions", "export", "--format", "m"], ["markdown"]),
    (["sessions", "delete", NAMES[0], "2026-01-01"], [NAMES[2]]),
    (["chat", "-m", "mo"], ["models/b.gguf", "models/c.gguf"]),
    (["chat", "-m", "models/"], ["models/b.gguf", "models/c.gguf", "models/deep/d.gguf"]),
    (["chat", "--model", "./a"], ["./a.gguf"]),
    (["bench", "models/"], ["models/b.gguf", "models/c.gguf", "models/deep/d.gguf"]),
    (["tune", "Qwen/T"], ["Qwen/Toy-GGUF:Q4_K_M", "Qwen/Toy-GGUF:Q8_0"]),
    (["chat", "-m", "Qwen/T"], ["Qwen/Toy-GGUF:Q4_K_M", "Qwen/Toy-GGUF:Q8_0"]),
    (["rm", "Qwen/Toy"], ["Qwen/Toy-GGUF:Q4_K_M", "Qwen/Toy-GGUF:Q8_0"]),
    (["pull", "qwen3.5-35b"], ["qwen3.5-35b-a3b"]),
    (["config", "show", "chat.tem"], ["chat.temp"]),
    (["config", "show", "ctx"], ["ctx-size"]),
    (["sess"], ["sessions"]),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell",
    [
        pytest.param(in_bash, marks=needs["bash"], id="bash"),
        pytest.param(in_fish, marks=needs["fish"], id="fish"),
        pytest.param(in_zsh, marks=needs["zsh"], id="zsh"),
    ],
)
def test_shell_completes_options_files_models_and_sessions(shell: object, folder: Path) -> None:
    assert callable(shell)
    completed = [(words, sorted(shell("qwenctl", *words))) for words, _ in CASES]
    assert completed == [(words, sorted(expected)) for words, expected in CASES]


@needs["bash"]
def test_bash_registers_the_completion_function(folder: Path) -> None:
    text = run("bash", "--norc", "-c", f"{script('bash')}\ncomplete -p qwenctl")
    assert text == "complete -o default -F _qwenctl_completion qwenctl\n"


@needs["bash"]
@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (["-m", "Qwen/Toy-GGUF", ":"], ["Q4_K_M", "Q8_0"]),
        (["-m", "Qwen/Toy-GGUF", ":", "Q8"], ["Q8_0"]),
        (["--resume", ""], NAMES),
    ],
)
def test_bash_completes_only_the_text_after_a_colon(words: list[str], ends: list[str], folder: Path) -> None:
    """A colon ends a word in bash, so only the text after it is replaced. The latest conversation comes first."""
    assert in_bash("qwenctl", "chat", *words) == ends


KEYS = [
    pytest.param(["bash", "--norc", "-i"], "source ./script", marks=needs["bash"], id="bash"),
    pytest.param(
        ["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; source ./script", marks=needs["zsh"], id="zsh"
    ),
    pytest.param(["fish", "--no-config", "-i"], "source ./script", marks=needs["fish"], id="fish"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "begin"), KEYS)
def test_tab_inserts_the_completion(command: list[str], begin: str, folder: Path, tmp_path: Path) -> None:
    (folder / "script").write_text(script(command[0]))
    with Terminal(command, tmp_path, HOME=str(tmp_path), PS1="> ", LC_ALL="C.UTF-8") as terminal:
        terminal.send(f"{begin}; echo rea''dy\r")
        terminal.wait_for("ready")
        terminal.send("qwenctl quan\t--type Q8\t")
        terminal.wait_for("qwenctl quantize --type Q8_0")
        terminal.send("\x15qwenctl chat -m a\t")
        terminal.wait_for("qwenctl chat -m a.gguf")
        terminal.send("\x15qwenctl show Qwen/Toy-GGUF:Q8\t--json")
        terminal.wait_for("qwenctl show Qwen/Toy-GGUF:Q8_0 --json")


def test_install_completion_writes_the_script_and_sources_it(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = run("bash", "--norc", "-c", f"'{PROGRAM}' --install-completion; true", HOME=str(home))
    installed = home / ".bash_completions" / "qwenctl.sh"
    assert str(installed) in done
    assert installed.read_text() == script("bash").rstrip("\n")
    assert f"source '{installed}'" in (home / ".bashrc").read_text()
