"""The options that commands share, declared once: llama.cpp's names, their checks and their one line of help."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import typer

from qwenctl.commands.options.shell_completion import complete_models, complete_prefixes, complete_sessions
from qwenctl.errors import QwenctlError
from qwenctl.models.sampling import SAMPLING_OPTIONS, parse_number, parse_value
from qwenctl.terminal.sanitize import decode
from qwenctl.terminal.streams import is_terminal

_LIMIT = 2**31 - 1
# ggml's names of the types a KV cache may have (common/arg.cpp, kv_cache_types).
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]


def with_optional_values(arguments: Sequence[str]) -> list[str]:
    """`arguments` with an empty value for `--resume` where none follows; typer knows no options that may have one."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    following = [*options[1:], "-"]
    given = [
        f"{one}=" if one == "--resume" and after.startswith("-") else one
        for one, after in zip(options, following, strict=False)
    ]
    return [*given, *arguments[len(options) :]]


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` with its failure as a usage error that names the option."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except QwenctlError as error:
            raise typer.BadParameter(error.message) from error

    return checked


def parse_size(text: str) -> int:
    """The number of bytes that `text` means: 48G is decimal, 48GiB is binary. Raises BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if not found or (found[3] and not found[2]) or not float(found[1]):
        raise typer.BadParameter(f"'{text}' is no size such as 48G, 48GiB or 500M")
    size = float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " ")
    if size >= 2**63:
        raise typer.BadParameter(f"'{text}' is more than any disk holds")
    return int(size)


def text_or_file(given: str | None, mark: str) -> str:
    """What an option gives: itself if it holds `mark`, which no file name does, else the text of that file."""
    if given is None or mark in given:
        return given or ""
    return decode(Path(given).read_bytes(), lambda _: None)


def _number(meaning: str, *names: str, lowest: int, words: Mapping[str, int] = MappingProxyType({})) -> Any:
    """An option that takes a whole number from `lowest` up, or one of `words`."""

    def parse(text: str) -> Any:
        return words[text] if text in words else parse_number(text, lowest, _LIMIT, whole=True)

    return typer.Option(*names, parser=_checked(parse), metavar="N", help=meaning)


def _sampling(name: str, *short: str) -> Any:
    """The option of one sampling parameter; not given, the value published for the model is used."""
    option = SAMPLING_OPTIONS[name]
    parse = _checked(lambda text: parse_value(option, text))
    meaning = f"Sampling: {option.meaning}."
    return typer.Option(*short, f"--{name}", parser=parse, metavar="N", help=meaning, show_default=False)


Model = Annotated[
    Path | None,
    typer.Option(
        "-m",
        "--model",
        "-hf",
        "--hf-repo",
        metavar="MODEL",
        autocompletion=complete_models,
        help="GGUF file of a Qwen3.5 model, or the name of one that is here, as `qwenctl ls` lists it.",
    ),
]
ContextSize = Annotated[
    int,
    _number(
        "Context in tokens; 0: the model's own, up to 32,768 (8,192 a record of a batch).",
        "-c",
        "--ctx-size",
        lowest=0,
    ),
]
Predict = Annotated[
    int, _number("Longest answer in tokens, thinking included; -1: no limit.", "-n", "--predict", lowest=-1)
]
Threads = Annotated[
    int, _number("CPU threads; 0: one a physical core, fewer beside busy programs.", "-t", "--threads", lowest=0)
]
BatchSize = Annotated[int | None, _number("Prompt tokens in one call.", "-b", "--batch-size", lowest=1)]
MicroBatchSize = Annotated[int | None, _number("Prompt tokens computed at once.", "-ub", "--ubatch-size", lowest=1)]
GpuLayers = Annotated[
    int,
    _number(
        "Layers kept on the GPU; -1, auto, all: as many as there are.",
        "-ngl", "--gpu-layers", "--n-gpu-layers", lowest=-1, words={"auto": -1, "all": -1},
    ),
]  # fmt: skip
CacheTypeK = Annotated[
    CacheType, typer.Option("-ctk", "--cache-type-k", metavar="TYPE", help="Type of the KV cache's keys.")
]
CacheTypeV = Annotated[
    CacheType, typer.Option("-ctv", "--cache-type-v", metavar="TYPE", help="Type of the KV cache's values.")
]
FlashAttention = Annotated[Literal["auto", "on", "off"], typer.Option("-fa", "--flash-attn", help="Flash attention.")]
LoadMode = Annotated[
    Literal["auto", "mmap", "none"], typer.Option("-lm", "--load-mode", help="Map the file into memory, or read it.")
]
Temperature = Annotated[float | None, _sampling("temp")]
TopK = Annotated[int | None, _sampling("top-k")]
TopP = Annotated[float | None, _sampling("top-p")]
MinP = Annotated[float | None, _sampling("min-p")]
PresencePenalty = Annotated[float | None, _sampling("presence-penalty")]
FrequencyPenalty = Annotated[float | None, _sampling("frequency-penalty")]
RepeatPenalty = Annotated[float | None, _sampling("repeat-penalty")]
RepeatLastN = Annotated[int | None, _sampling("repeat-last-n")]
Seed = Annotated[int | None, _sampling("seed", "-s")]
SystemPrompt = Annotated[str, typer.Option("-sys", "--system-prompt", metavar="TEXT", help="System prompt.")]
Think = Annotated[bool, typer.Option("--think/--no-think", help="Let the model think before it answers.")]
ThinkBudget = Annotated[
    int, _number("Thinking is closed after so many tokens; -1: no limit.", "--think-budget", lowest=-1)
]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume", metavar="[NAME]", autocompletion=complete_sessions,
        help="Go on with a kept conversation; without NAME with the last one.",
    ),
]  # fmt: skip
PrefixOption = Annotated[
    str | None,
    typer.Option(
        "--prefix", metavar="FILE|NAME", autocompletion=complete_prefixes,
        help="Text that comes first: a file, a folder, or what `qwenctl prefixes` lists, which is not read again.",
    ),
]  # fmt: skip
Keep = Annotated[
    str | None,
    typer.Option("--keep", metavar="NAME", help="Read the file of --prefix once, and keep it under this name."),
]
SnapshotRam = Annotated[
    int | None,
    typer.Option(
        "--snapshot-ram", metavar="SIZE", parser=parse_size,
        help="Memory for going back to earlier turns without reading again; 2 GiB, or 5 % of a small memory.",
    ),
]  # fmt: skip
Draft = Annotated[
    Literal["auto", "mtp", "ngram", "off"],
    typer.Option(
        "--draft",
        help="Tokens drafted ahead where it pays: by the model's own draft head, from the text so far, or both.",
    ),
]
DraftMax = Annotated[
    int, _number("Tokens of one draft at most; 0: 3 of the head, 16 of the text.", "--draft-max", lowest=0)
]
DraftMin = Annotated[
    int, _number("Tokens that are always drafted; 0: as many as pay, or none.", "--draft-min", lowest=0)
]
NoSave = Annotated[bool, typer.Option("--no-save", help="Keep nothing of this conversation.")]
OnFullOption = Annotated[
    Literal["stop", "drop-oldest", "summarize"],
    typer.Option("--on-full", help="What becomes of the oldest turns when the context is nearly full."),
]
JsonSchema = Annotated[
    str | None,
    typer.Option("-j", "--json-schema", metavar="FILE", help="JSON schema that the answer must follow, or its file."),
]
GrammarFile = Annotated[
    str | None,
    typer.Option("--grammar", metavar="FILE", help="Grammar (GBNF) that the answer must follow, or its file."),
]
ToolsFile = Annotated[
    Path | None,
    typer.Option(
        "--tools", metavar="FILE", allow_from_autoenv=False,
        help="Functions that the model may call: a Python file, or a JSON list. Asks before each call.",
    ),
]  # fmt: skip
ToolTimeout = Annotated[int, _number("Seconds that a function may take.", "--tool-timeout", lowest=1)]
Yes = Annotated[
    bool,
    typer.Option(
        "-y", "--yes", allow_from_autoenv=False, help="Run the functions that the model calls without asking."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Thinking and statistics on standard error.")]
NoHistory = Annotated[bool, typer.Option("--no-history", help="Keep no history of the lines typed.")]
Color = Annotated[Literal["auto", "always", "never"], typer.Option("--color", help="Colors in the chat.")]


def ask(question: str) -> str | None:
    """What was typed, without blanks around it; None where nobody can answer. The end of input is an answer: "n"."""
    if not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
        return None
    sys.stderr.write(question)
    sys.stderr.flush()
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        raise
    if not line:
        sys.stderr.write("\n")
        return "n"
    return line.strip()


def confirm(question: str) -> bool:
    """Whether the answer is yes, as it is where nobody can answer."""
    answer = ask(f"{question} [y/N] ")
    return answer is None or answer.lower() in ("y", "yes")
