"""How many records and tokens a batch has, and how long it would take.

The whole input is read, and a few of its records are answered, for nothing else tells how long answers are; nothing is
written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from qwenctl.batch.backends.backend import BackendSpec, BatchBackend
from qwenctl.batch.input.selection import open_source, select_records
from qwenctl.batch.records import Answer, GenerationParams, InvalidRecord, Record, RecordError
from qwenctl.batch.specs import InputSpec, OutputSpec, check_apart
from qwenctl.terminal.streams import warn

_TRIED = 8
_SHOWN_BAD = 5


@dataclass(frozen=True)
class BatchEstimate:
    """What `records` would need, by `tried` of them that were answered; `bad` more are invalid.

    Tokens of all prompts and of all answers; `seconds` is None where the backend's speed is not known.
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
    """What the input holds; `tried` are records spread over it."""

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
    """Read all records of `input`, and answer a few; the arguments are those of `run`, and `output` is left alone.

    `on_warning` hears of the first that are invalid. Raises QwenctlError, and OSError for an input that cannot be
    read.
    """
    check_apart(input, output)
    survey = _survey(input, params, on_warning)
    counted = BatchEstimate(survey.records, survey.bad)
    if not survey.tried:
        return counted
    answers = backend.open(input, on_warning)
    try:
        return _estimate(survey, answers, counted)
    finally:
        answers.close()


def _survey(source: InputSpec, params: GenerationParams, on_warning: Callable[[str], None]) -> _Survey:
    """Read everything; keep each second, fourth, … record, so that a few remain, far apart."""
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
    return sum(len(message.content) for message in record.messages)


def _estimate(survey: _Survey, backend: BatchBackend, counted: BatchEstimate) -> BatchEstimate:
    """Tokens and seconds of all, by those that are tried: prompts by their characters, answers by their mean."""
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
    for number, record in enumerate(tried):
        backend.submit(number, record)
    outcomes: dict[int, Answer | RecordError] = {}
    while len(outcomes) < len(tried):
        outcomes.update(backend.collect(0.5))
    return {number: answer for number, answer in outcomes.items() if isinstance(answer, Answer)}
