"""What a batch reads and writes, as two frozen values: which records come in, and where and how answers go out.

Each checks itself for contradictions when it is created. The third value is the `backends.backend.BackendSpec`. Nothing
is opened here.
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
    """Which records to answer: `source` is a file in the format `kind`, or "-" for standard input.

    `prompt` and `system` are templates; `prefix` is a system prompt taken literally. `passthrough` names fields to copy
    into the answer. Records end with NUL if `null`. `limit` answers only the first records, `sample` draws that many at
    random by `seed`; together with a record's id, `seed` also determines the seed of its answer.
    Raises QwenctlError if two of these cannot be used together.
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
        """The name of the source in messages."""
        return "stdin" if str(self.source) == STANDARD_STREAM else str(self.source)

    @property
    def end(self) -> bytes:
        """The byte that ends a record."""
        return b"\0" if self.null else b"\n"

    @property
    def max_records(self) -> int | None:
        """The maximum number of records; None if only the source limits it."""
        return min((count for count in (self.limit, self.sample) if count is not None), default=None)

    def format(self, params: GenerationParams) -> InputFormat:
        """How to read records; `params` are their defaults. Raises QwenctlError for a bad template."""
        prompt = Template.parse(self.prompt, "--prompt") if self.prompt is not None else None
        system = Template.parse(self.system, "--system") if self.system is not None else None
        if self.prefix is not None:
            system = Template(((self.prefix, None),))
        return InputFormat(self.kind, params, prompt, system, self.passthrough, self.end)


@dataclass(frozen=True)
class OutputSpec:
    """Where answers go: `path` is a file, or "-" for standard output. A line has the format `style`, or is the JSON of
    the field `select`.

    An existing output is resumed: with `resume="force"` even if settings have changed, with `retry_errors` including
    its failed records; `overwrite` starts over instead. `recorded_as` replaces the values of "grammar" and
    "json_schema" where settings are compared on resuming: by the names of their files.
    Raises QwenctlError if two of these cannot be used together.
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
        needs_file = {
            "--retry-errors": self.retry_errors,
            "--overwrite": self.overwrite,
            "--force-resume": self.resume == "force",
        }
        for option, is_set in needs_file.items():
            if self.is_standard_output and is_set:
                raise QwenctlError(f"{option}: standard output cannot be resumed", "-o OUT.jsonl")

    @property
    def is_standard_output(self) -> bool:
        """Whether answers go to standard output, which cannot be resumed."""
        return str(self.path) == STANDARD_STREAM


def check_apart(source: InputSpec, output: OutputSpec) -> None:
    """Raises QwenctlError if the output is the input file."""
    if STANDARD_STREAM in (str(source.source), str(output.path)):
        return
    one, other = Path(source.source), Path(output.path)
    if one.exists() and other.exists() and one.samefile(other):
        raise QwenctlError(f"{output.path} is the input", "choose another -o")
