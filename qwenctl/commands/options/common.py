"""The options that commands share, declared once: names (llama.cpp's), checks, and a line of help for each."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import typer

from quantize.errors import BadOption, QuantizeError
from quantize.formatting import parse_bytes
from qwenctl.commands.options.shell_completion import complete_models, complete_prefixes, complete_sessions
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.text_check import check_text, decode_text
from qwenctl.models.sampling import SAMPLING_OPTIONS, parse_number, parse_value
from qwenctl.terminal.streams import is_terminal, warn_if_silent

MAX_TEXT_BYTES = 16 << 20  # of a file with a grammar, a schema or a template
_LIMIT = 2**31 - 1
_LEAST_BARE = 1 << 20  # bytes: a smaller size without a unit is a mistake, as is 24 for 24G
# ggml's names of the types that a KV cache can have (llama.cpp: common/arg.cpp, kv_cache_types).
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]


def with_optional_values(arguments: Sequence[str]) -> list[str]:
    """`arguments` with `--resume=` for a `--resume` without a value: typer has no optional option values."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    following = [*options[1:], "-"]
    given = [
        f"{one}=" if one == "--resume" and after.startswith("-") else one
        for one, after in zip(options, following, strict=False)
    ]
    return [*given, *arguments[len(options) :]]


def with_usage_error(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` with its failure (QwenctlError, QuantizeError, ValueError) as a usage error that names the option."""

    def parse_option(text: str) -> Any:
        try:
            return parse(text)
        except (QwenctlError, QuantizeError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error

    return parse_option


def number_parser(
    lowest: int, highest: int = _LIMIT, words: Mapping[str, int] = MappingProxyType({}), *, is_integer: bool = True
) -> Callable[[str], Any]:
    """A parser of numbers from `lowest` to `highest`, or of one of `words`. It raises BadParameter."""

    def parse(text: str) -> Any:
        # A default value comes as the number that it is.
        return words[str(text)] if str(text) in words else parse_number(text, lowest, highest, is_integer=is_integer)

    return with_usage_error(parse)


def _parse_typed_size(text: str, bare_unit: int = 1, lowest: int = 1) -> int:
    """`parse_bytes`, but a small number without a unit, which nobody means as bytes, raises BadOption."""
    size = parse_bytes(text, bare_unit, lowest)
    if bare_unit == 1 and size < _LEAST_BARE and re.fullmatch(r"[\d.]+", text.strip()):
        raise BadOption(
            f"'{text}' has no unit, and would be bytes", f"{text.strip()}G, {text.strip()}M or {text.strip()}B"
        )
    return size


parse_size = with_usage_error(_parse_typed_size)


def parse_sizes(bare_unit: int = 1, lowest: int = 1) -> Callable[[str], tuple[int, ...] | None]:
    """A parser of comma-separated sizes in bytes, which returns None for none; a bare number counts `bare_unit` bytes.

    The parser raises BadParameter.
    """
    parse = with_usage_error(lambda text: _parse_typed_size(text, bare_unit, lowest))
    return lambda text: tuple(parse(item) for item in text.split(",") if item.strip()) or None


def text_or_file(given: str | None, mark: str, option: str) -> str:
    """The text of `option`: `given` itself if it contains `mark`, which no file name does; else that file's text.

    Without the option (None) it is empty. Raises QwenctlError if it was given, and there is no text.
    """
    if given is None:
        return ""
    if not given.strip():
        raise QwenctlError(f"{option} is empty", f"leave it out, or give a file or text with {mark!r}")
    text = given
    if mark not in given:
        with open(given, "rb") as file:  # perhaps a pipe: --grammar /dev/stdin
            warn_if_silent(file, f"{option} {given}", "Ctrl-C stops")
            data = file.read(MAX_TEXT_BYTES + 1)
        check_text(data, given, "cat > FILE")
        if len(data) > MAX_TEXT_BYTES:
            raise QwenctlError(f"{given} has more than {MAX_TEXT_BYTES >> 20} MiB", "", ExitCode.BAD_DATA)
        text = decode_text(data, given, "cat > FILE")
    if not text.strip():
        raise QwenctlError(f"{option} {given}: the file is empty", "leave the option out, or fill the file")
    return text


def answer_constraints(grammar: str | None, json_schema: str | None) -> tuple[str, str]:
    """The texts of --grammar and --json-schema; "" for what was not given. Raises QwenctlError, OSError."""
    if grammar is not None and json_schema is not None:
        raise QwenctlError("--grammar and --json-schema cannot be used together", "leave one of them out")
    return text_or_file(grammar, "::=", "--grammar"), text_or_file(json_schema, "{", "--json-schema")


def _number(meaning: str, *names: str, lowest: int, words: Mapping[str, int] = MappingProxyType({})) -> Any:
    """An option that takes an integer of at least `lowest`, or one of `words`."""
    return typer.Option(*names, parser=number_parser(lowest, words=words), metavar="N", help=meaning)


def _sampling(name: str, *short: str) -> Any:
    """The option for one sampling parameter; its default is the value published for the model."""
    option = SAMPLING_OPTIONS[name]
    parse = with_usage_error(lambda text: parse_value(option, text))
    meaning = f"{option.help[:1].upper()}{option.help[1:]}."
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
        help="Model to load: a GGUF file, or a local model's name from `qwenctl ls`.",
    ),
]
ContextSize = Annotated[
    int,
    _number(
        "Context size in tokens; 0: the model's, up to 32,768 (8,192 per record of a batch).",
        "-c",
        "--ctx-size",
        lowest=0,
    ),
]
Predict = Annotated[
    int, _number("Maximum tokens in an answer, thinking included; -1: no limit.", "-n", "--predict", lowest=-1)
]
Threads = Annotated[
    int,
    _number("CPU threads; 0: one per physical core, fewer while other programs are busy.", "-t", "--threads", lowest=0),
]
BatchSize = Annotated[int | None, _number("Prompt tokens per call (logical batch).", "-b", "--batch-size", lowest=1)]
MicroBatchSize = Annotated[
    int | None, _number("Prompt tokens computed at once (micro-batch).", "-ub", "--ubatch-size", lowest=1)
]
GpuLayers = Annotated[
    int,
    _number(
        "Layers to put on GPUs; -1, auto or all: all of them.",
        "-ngl", "--gpu-layers", "--n-gpu-layers", lowest=-1, words={"auto": -1, "all": -1},
    ),
]  # fmt: skip
CacheTypeK = Annotated[
    CacheType, typer.Option("-ctk", "--cache-type-k", metavar="TYPE", help="Data type of the KV cache's keys.")
]
CacheTypeV = Annotated[
    CacheType, typer.Option("-ctv", "--cache-type-v", metavar="TYPE", help="Data type of the KV cache's values.")
]
FlashAttention = Annotated[
    Literal["auto", "on", "off"], typer.Option("-fa", "--flash-attn", help="Use flash attention.")
]
LoadMode = Annotated[
    Literal["auto", "mmap", "none"],
    typer.Option("-lm", "--load-mode", help="How to load the file: memory-map it, or read it (none)."),
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
ThinkBudget = Annotated[int, _number("Maximum tokens of thinking; -1: no limit.", "--think-budget", lowest=-1)]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume", metavar="[NAME]", autocompletion=complete_sessions,
        help="Resume a saved conversation; without NAME, the latest one.",
    ),
]  # fmt: skip
PrefixOption = Annotated[
    str | None,
    typer.Option(
        "--prefix", metavar="FILE|NAME", autocompletion=complete_prefixes,
        help="Start with this text: a file, a folder, or a saved prefix from `qwenctl prefixes`.",
    ),
]  # fmt: skip
SaveAs = Annotated[
    str | None,
    typer.Option(
        "--save-as", "--keep", metavar="NAME", help="Save the text of --prefix, already evaluated, under this name."
    ),
]
SnapshotRam = Annotated[
    int | None,
    typer.Option(
        "--snapshot-ram", metavar="SIZE", parser=parse_size,
        help="Memory for snapshots of earlier turns; 2 GiB by default, 5% of the RAM if that is less.",
    ),
]  # fmt: skip
Draft = Annotated[
    Literal["auto", "mtp", "ngram", "off"],
    typer.Option(
        "--draft",
        help="Speculative decoding: with the model's draft head (mtp), from the text so far (ngram), or both.",
    ),
]
DraftMax = Annotated[int, _number("Maximum tokens per draft; 0: 3 for mtp, 16 for ngram.", "--draft-max", lowest=0)]
DraftMin = Annotated[int, _number("Minimum tokens per draft; 0: as many as pay off.", "--draft-min", lowest=0)]
NoSave = Annotated[bool, typer.Option("--no-save", help="Do not save this conversation.")]
OnFullOption = Annotated[
    Literal["stop", "drop-oldest", "summarize"],
    typer.Option("--on-full", help="What to do with the oldest turns when the context is nearly full."),
]
JsonSchema = Annotated[
    str | None,
    typer.Option(
        "-j",
        "--json-schema",
        metavar="FILE",
        help="JSON schema that the answer must match: a file, or the schema itself.",
    ),
]
GrammarFile = Annotated[
    str | None,
    typer.Option(
        "--grammar", metavar="FILE", help="GBNF grammar that the answer must match: a file, or the grammar itself."
    ),
]
ToolsFile = Annotated[
    Path | None,
    typer.Option(
        "--tools", metavar="FILE", allow_from_autoenv=False,
        help="Functions that the model may call: a Python or JSON file. Asks before each call.",
    ),
]  # fmt: skip
ToolTimeout = Annotated[int, _number("Time limit for a function call, in seconds.", "--tool-timeout", lowest=1)]
Yes = Annotated[
    bool,
    typer.Option(
        "-y", "--yes", allow_from_autoenv=False, help="Run the functions that the model calls without asking first."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show thinking and statistics on standard error.")]
NoHistory = Annotated[bool, typer.Option("--no-history", help="Do not save the input history.")]
Color = Annotated[Literal["auto", "always", "never"], typer.Option("--color", help="Use colors in the chat.")]


def ask(question: str) -> str | None:
    """The line typed on the terminal, stripped; "n" at the end of input. None if there is no terminal to ask on."""
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
    """Whether the user says yes. True if there is no terminal to ask on."""
    answer = ask(f"{question} [y/N] ")
    return answer is None or answer.lower() in ("y", "yes")
