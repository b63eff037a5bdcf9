"""How many records and tokens a batch has, and how long it would take.

The whole input is read, and a few of its records are answered, because the length of answers cannot be known otherwise.
Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from qwenctl.batch.backends.backend import BackendSpec, BatchBackend
from qwenctl.batch.input.selection import open_source, select_records
from qwenctl.batch.records import Answer, GenerationParams, InvalidRecord, Record, RecordError
from qwenctl.batch.runner import SeveralAnswersBackend
from qwenctl.batch.specs import InputSpec, OutputSpec, check_apart
from qwenctl.terminal.streams import warn

_TRIED = 8  # records answered
_SHOWN_BAD = 5  # invalid records reported


@dataclass(frozen=True)
class BatchEstimate:
    """What `records` would need, extrapolated from the `tried` that were answered; `bad` more are invalid.

    `prompt_tokens` and `answer_tokens` are totals; `seconds` is None if the backend does not report its speed.
    """

    records: int
    bad: int
    tried: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    parallel: int = 0
    seconds: float | None = None


@dataclass
class _Survey:
    """Counts of the whole input; `tried` are records spread evenly over it, to be answered."""

    records: int = 0
    bad: int = 0
    characters: int = 0
    tried: list[Record] = field(default_factory=list)


def estimate(
    *,
    input: InputSpec,  # noqa: A002 - as `run` calls it
    output: OutputSpec,
    backend: BackendSpec,
    params: GenerationParams,
    on_warning: Callable[[str], None] = warn,
) -> BatchEstimate:
    """Read all records of `input`, and answer a few. The arguments are those of `run`; `output` is not touched.

    `on_warning` is called for the first invalid records. Raises QwenctlError, and OSError for an input that cannot be
    read.
    """
    check_apart(input, output)
    survey = _survey(input, params, on_warning)
    counted = BatchEstimate(survey.records, survey.bad)
    if not survey.tried:
        return counted
    answers = SeveralAnswersBackend(backend.open(input, on_warning), input.seed)
    try:
        return _estimate(survey, answers, counted)
    finally:
        answers.close()


def _survey(source: InputSpec, params: GenerationParams, on_warning: Callable[[str], None]) -> _Survey:
    """Read everything, and pick records to try."""
    # The input's length is unknown: whenever too many are picked, drop every other one and double the stride.
    survey, stride = _Survey(), 1
    with open_source(source) as stream:
        for item in select_records(source, source.format(params), stream):
            if isinstance(item, InvalidRecord):
                survey.bad += 1
                if survey.bad <= _SHOWN_BAD:
                    on_warning(f"{item.where}: {item.reason}")
                continue
            if survey.records % stride == 0:
                survey.tried.append(item)
            if len(survey.tried) == 2 * _TRIED:
                del survey.tried[1::2]
                stride *= 2
            survey.records += 1
            survey.characters += _length(item)
    survey.tried = survey.tried[:_TRIED]
    return survey


def _length(record: Record) -> int:
    """Characters in all messages."""
    return sum(len(message.content) for message in record.messages)


def _estimate(survey: _Survey, backend: BatchBackend, counted: BatchEstimate) -> BatchEstimate:
    """Extrapolate to all records: prompts by their number of characters, answers by their mean length."""
    answers = _answers(survey.tried, backend)
    if not answers:
        return counted
    work = backend.stats
    tried = sum(_length(survey.tried[number]) for number in answers)
    prompts = sum(answer.usage["prompt_tokens"] for answer in answers.values())
    made = sum(answer.usage["completion_tokens"] for answer in answers.values())
    share = survey.records / len(answers)
    prompt_tokens = round(prompts / tried * survey.characters) if tried else 0
    seconds = None
    if work.prompt_s and work.prompt_tokens and work.answer_tokens:
        read = prompt_tokens * work.prompt_s / work.prompt_tokens
        seconds = round(read + made * share * work.answer_s / work.answer_tokens, 1)
    return replace(
        counted, tried=len(answers), prompt_tokens=prompt_tokens, answer_tokens=round(made * share),
        parallel=work.parallel, seconds=seconds,
    )  # fmt: skip


def _answers(tried: list[Record], backend: BatchBackend) -> dict[int, Answer]:
    """The answers by index in `tried`, without records that fail."""
    for number, record in enumerate(tried):
        backend.submit(number, record)
    outcomes: dict[int, Answer | RecordError] = {}
    while len(outcomes) < len(tried):
        outcomes.update(backend.collect(0.5))
    return {number: answer for number, answer in outcomes.items() if isinstance(answer, Answer)}
