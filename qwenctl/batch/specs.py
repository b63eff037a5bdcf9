"""What a batch is asked for, as two frozen values: which records come in, and where and how their answers go out.

Each refuses what contradicts itself when it is made. Whoever answers is a third value, `backends.backend.BackendSpec`.
Nothing is opened here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qwenctl.batch.input.readers import InputFormat, Kind
from qwenctl.batch.input.template import Template
from qwenctl.batch.output.formats import FIELDS, Style
from qwenctl.batch.output.writers import Order
from qwenctl.batch.records import GenerationParams
from qwenctl.errors import QwenctlError

STANDARD_STREAM = "-"


@dataclass(frozen=True)
class InputSpec:
    """The records: `source` is a file, "-" for standard input, read as `kind` says.

    `prompt` and `system` are templates, `prefix` is a system prompt without fields. `passthrough` names fields that are
    copied into the answer. Records end with NUL if `null`. Of all records only the first `limit` are answered, or
    `sample` of them, drawn by `seed`, which with the id of a record also determines the seed of its answer.
    Raises QwenctlError where two of these cannot be used together.
    """

    source: str | Path = STANDARD_STREAM
    kind: Kind = "jsonl"
    prompt: str | None = None
    system: str | None = None
    prefix: str | None = None
    passthrough: tuple[str, ...] = ()
    null: bool = False
    limit: int | None = None
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.null and self.kind == "csv":
            raise QwenctlError("--null and --csv cannot be used together", "CSV is made of lines")
        if self.kind in ("files", "csv") and self.prompt is None:
            example = "'Summarize: {file}'" if self.kind == "files" else "'Translate {text} into {lang}'"
            raise QwenctlError(f"--{self.kind} needs --prompt", f"--prompt {example}")
        if self.prefix is not None and self.system is not None:
            raise QwenctlError("--prefix and --system cannot be used together", "a prefix becomes the system prompt")
        taken = sorted(set(self.passthrough) & set(FIELDS))
        if taken:
            raise QwenctlError(
                f"--keep {taken[0]}: answers already have a field of that name", f"it has: {', '.join(FIELDS)}"
            )

    @property
    def name(self) -> str:
        """What the source is called in messages."""
        return "stdin" if str(self.source) == STANDARD_STREAM else str(self.source)

    @property
    def end(self) -> bytes:
        """The byte that ends a record."""
        return b"\0" if self.null else b"\n"

    @property
    def most(self) -> int | None:
        """The most records that can come; None if only the source knows."""
        return min((count for count in (self.limit, self.sample) if count is not None), default=None)

    def format(self, params: GenerationParams) -> InputFormat:
        """How records are read; `params` hold where one says nothing. Raises QwenctlError for a bad template."""
        prompt = Template.parse(self.prompt, "--prompt") if self.prompt is not None else None
        system = Template.parse(self.system, "--system") if self.system is not None else None
        if self.prefix is not None:
            system = Template(((self.prefix, None),))
        return InputFormat(self.kind, params, prompt, system, self.passthrough, self.end)


@dataclass(frozen=True)
class OutputSpec:
    """Where answers go: `path` is a file, "-" for standard output; a line is in the form `style`, or one field alone.

    An output that is there already is resumed, by force if `resume` says so although settings have changed, and with
    `retry_errors` its failed records are tried again; or it is begun anew, with `overwrite`. `recorded_as` has other
    words for settings that are compared when it is resumed: "grammar" and "json_schema" by the names of their files.
    Raises QwenctlError where two of these cannot be used together.
    """

    path: str | Path = STANDARD_STREAM
    order: Order = "input"
    style: Style = "qwenctl"
    select: str = ""
    resume: Literal["auto", "force"] = "auto"
    retry_errors: bool = False
    overwrite: bool = False
    recorded_as: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.select and self.style != "qwenctl":
            raise QwenctlError("--select and --format cannot be used together", "leave one of them out")
        if self.is_standard_output and (self.retry_errors or self.overwrite or self.resume == "force"):
            raise QwenctlError("standard output cannot be resumed", "-o OUT.jsonl")

    @property
    def is_standard_output(self) -> bool:
        """Whether answers go to standard output, and nothing can be resumed."""
        return str(self.path) == STANDARD_STREAM


def check_apart(source: InputSpec, output: OutputSpec) -> None:
    """Raise QwenctlError if the output is the file that is read."""
    if STANDARD_STREAM in (str(source.source), str(output.path)):
        return
    one, other = Path(source.source), Path(output.path)
    if one.exists() and other.exists() and one.samefile(other):
        raise QwenctlError(f"{output.path} is the input", "choose another -o")
