"""What a check of the backend has found, and what may be used because of it.

Frozen values, which go through JSON and come back the same. Nothing is run here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Kind = Literal["cpu", "extra", "device"]

# The mean squared error that is allowed, as a share of the mean square of the logits (NMSE), of the worst single
# position. Activations are rounded to 8 bits, and two right ways may round one of them differently; from there on all
# roundings differ. That was seen to give 1e-4 to 1e-3 on CPUs; all roundings together make 1e-3 against float32. A
# device that computes in 16 bits gave 2e-3 to 5e-3. Kernels with a fault were seen to give 0.04 to 2.
BOUND: Final = 2e-2

STARTING: Final = "its start"  # what takes the place of a case before there is any


@dataclass(frozen=True)
class Subject:
    """What is checked: the plain path of the CPU, its extra buffer types, or a device by ggml's name of it."""

    kind: Kind
    name: str = ""  # of a device

    @property
    def title(self) -> str:
        """What a person calls it."""
        return {"cpu": "CPU", "extra": "extra buffer types", "device": self.name}[self.kind]


PLAIN: Final = Subject("cpu")
EXTRA: Final = Subject("extra")


@dataclass(frozen=True)
class CaseResult:
    """One way of computing: the worst NMSE of a position, and whether the most likely tokens are the right ones.

    `error` says what happened where there are no results: a signal, an abort, a time-out.
    """

    case: str
    nmse: float = 0.0
    same_tokens: bool = True
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it computed what it should."""
        return not self.error and self.same_tokens and self.nmse <= BOUND

    def why_not(self) -> str:
        """What is wrong, in words, if it does not pass."""
        what = self.error or (f"NMSE {self.nmse:.2g}" if self.same_tokens else f"another token, NMSE {self.nmse:.2g}")
        return f"{self.case}: {what}"


@dataclass(frozen=True)
class SubjectResult:
    """What was found about one subject. `parts` are the extra buffer types that there are."""

    subject: Subject
    cases: tuple[CaseResult, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        """The cases that did not pass."""
        return tuple(case for case in self.cases if not case.passed)

    @property
    def passed(self) -> bool:
        """Whether it may be used."""
        return bool(self.cases) and not self.failures

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{self.subject.title} ({', '.join(self.parts)})" if self.parts else self.subject.title


@dataclass(frozen=True)
class BackendCheck:
    """All that was found about a build on this machine; `devices` by `identity.device_key`."""

    cpu: SubjectResult
    extra: SubjectResult | None = None  # None where there are no extra buffer types
    devices: Mapping[str, SubjectResult] = field(default_factory=dict)
    checked: str = ""  # when, as ISO 8601

    @property
    def allows_extra_buffers(self) -> bool:
        """Whether extra buffer types may be used."""
        return self.extra is None or self.extra.passed

    @property
    def subjects(self) -> tuple[SubjectResult, ...]:
        """Everything that was checked."""
        return (self.cpu, *([self.extra] if self.extra else []), *self.devices.values())


# Where nothing could be found out: what is always there is used, and nothing else.
UNCHECKED: Final = BackendCheck(SubjectResult(PLAIN), SubjectResult(EXTRA))


def as_json(check: BackendCheck) -> dict[str, Any]:
    """The check as what JSON can hold; `check_of` makes it a check again."""
    return asdict(check)


def check_of(fields: Mapping[str, Any]) -> BackendCheck:
    """The check that `as_json` made this of. Raises ValueError for anything else."""
    try:
        extra = fields["extra"]
        devices = {str(key): _subject_result(one) for key, one in fields["devices"].items()}
        return BackendCheck(
            _subject_result(fields["cpu"]), _subject_result(extra) if extra else None, devices, str(fields["checked"])
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a check: {error}") from error


def _subject_result(fields: Mapping[str, Any]) -> SubjectResult:
    cases = tuple(_case(one) for one in fields["cases"])
    return SubjectResult(_subject(fields["subject"]), cases, tuple(map(str, fields["parts"])))


def _subject(fields: Mapping[str, Any]) -> Subject:
    kind = fields["kind"]
    if kind not in ("cpu", "extra", "device"):
        raise ValueError(f"not a subject: {kind!r}")
    return Subject(kind, str(fields["name"]))


def _case(fields: Mapping[str, Any]) -> CaseResult:
    nmse = float(fields["nmse"])
    if math.isnan(nmse):
        raise ValueError("not an error: nan")
    return CaseResult(str(fields["case"]), nmse, bool(fields["same_tokens"]), str(fields["error"]))
