"""`qwenctl batch --dry-run`: how many records and tokens there are, and how long they would take.

The whole input is read, and a few of its records are answered, for nothing else tells how long answers are; nothing is
written but the figures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwenctl.commands.batch.batch_input import input_format, open_source, select_records
from qwenctl.commands.batch.batch_request import BatchOptions
from qwenctl.terminal.streams import text_writer, warn

if TYPE_CHECKING:
    from qwenctl.batch.backends.backend import BatchBackend
    from qwenctl.batch.records import Answer, Record, RecordError

_TRIED = 8
_SHOWN_BAD = 5


@dataclass
class _Survey:
    """What the input holds; `tried` are records spread over it."""

    records: int = 0
    bad: int = 0
    characters: int = 0
    tried: list[Record] = field(default_factory=list)


def dry_run(given: BatchOptions, open_answerer: Callable[[BatchOptions], BatchBackend]) -> None:
    """Print the figures. Raises typer's Exit where records cannot be asked."""
    survey = _survey(given)
    fields: dict[str, Any] = {"records": survey.records, "bad": survey.bad}
    if survey.tried:
        fields |= _estimate(survey, open_answerer(given))
    if given.json:
        text_writer(sys.stdout)(json.dumps(fields) + "\n")
    else:
        text_writer(sys.stdout)("".join(f"{line}\n" for line in _lines(fields)))
    if survey.bad:
        import typer

        from qwenctl.errors import ExitCode

        raise typer.Exit(ExitCode.SOME_FAILED)


def _survey(given: BatchOptions) -> _Survey:
    """Read everything; keep each second, fourth, … record, so that a few remain, far apart."""
    from qwenctl.batch.records import InvalidRecord

    survey, stride = _Survey(), 1
    with open_source(given) as (stream, name):
        for item in select_records(given, stream, name, input_format(given)):
            if isinstance(item, InvalidRecord):
                survey.bad += 1
                if survey.bad <= _SHOWN_BAD:
                    warn(f"{item.where}: {item.reason}")
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


def _estimate(survey: _Survey, answerer: BatchBackend) -> dict[str, Any]:
    """Tokens and seconds of all, by those that are tried: prompts by their characters, answers by their mean."""
    try:
        answers = _answers(survey.tried, answerer)
        work = answerer.stats
    finally:
        answerer.close()
    if not answers:
        return {}
    tried = sum(_length(survey.tried[number]) for number in answers)
    prompts = sum(answer.usage["prompt_tokens"] for answer in answers.values())
    made = sum(answer.usage["completion_tokens"] for answer in answers.values())
    share = survey.records / len(answers)
    prompt_tokens = round(prompts / tried * survey.characters) if tried else 0
    fields: dict[str, Any] = {
        "tried": len(answers),
        "prompt_tokens": prompt_tokens,
        "answer_tokens": round(made * share),
        "parallel": work.parallel,
    }
    if work.prompt_s and work.prompt_tokens and work.answer_tokens:
        read = prompt_tokens * work.prompt_s / work.prompt_tokens
        fields["seconds"] = round(read + made * share * work.answer_s / work.answer_tokens, 1)
    return fields


def _answers(tried: list[Record], answerer: BatchBackend) -> dict[int, Answer]:
    from qwenctl.batch.records import Answer

    for number, record in enumerate(tried):
        answerer.submit(number, record)
    outcomes: dict[int, Answer | RecordError] = {}
    while len(outcomes) < len(tried):
        outcomes.update(answerer.collect(0.5))
    return {number: answer for number, answer in outcomes.items() if isinstance(answer, Answer)}


def _lines(fields: dict[str, Any]) -> list[str]:
    from quantize.formatting import format_duration

    bad = f", {fields['bad']:,} cannot be asked" if fields["bad"] else ""
    lines = [f"records  {fields['records']:,}{bad}"]
    if "tried" in fields:
        by = f"by {fields['tried']} of them"
        lines.append(f"prompts  about {fields['prompt_tokens']:,} tokens, {by}")
        lines.append(f"answers  about {fields['answer_tokens']:,} tokens, {by}")
    if "seconds" in fields:
        lines.append(f"time     about {format_duration(fields['seconds'])}, {fields['parallel']} at once")
    return lines
