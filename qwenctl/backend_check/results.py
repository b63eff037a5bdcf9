"""The results of a check of the backend, and what may be used because of them.

Frozen values that survive a round trip through JSON. Nothing is run here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

SubjectKind = Literal["cpu", "extra", "device"]

# The allowed mean squared error relative to the mean square of the logits (NMSE), at the worst position. Activations
# are rounded to 8 bits, and two correct implementations may round one of them differently; from there on all roundings
# differ. On CPUs this gave 1e-4 to 1e-3, where all roundings together make 1e-3 against float32. A device that
# computes in 16 bits gave 2e-3 to 5e-3. Faulty kernels gave 0.04 to 2.
BOUND: Final = 2e-2

STARTING: Final = "its start"  # stands for the case before the first one


@dataclass(frozen=True)
class Subject:
    """What is checked: the plain path of the CPU, its extra buffer types, or a device by its ggml name."""

    kind: SubjectKind
    name: str = ""  # of a device

    @property
    def title(self) -> str:
        """Its name for the user."""
        return {"cpu": "CPU", "extra": "extra buffer types", "device": self.name}[self.kind]


PLAIN: Final = Subject("cpu")
EXTRA: Final = Subject("extra")


@dataclass(frozen=True)
class CaseResult:
    """The result of one way of computing: the worst NMSE of a position, and whether the most likely tokens are right.

    `error` says what happened if there are no results: a signal, an abort, a timeout.
    """

    case: str
    nmse: float = 0.0
    same_tokens: bool = True
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether the values are correct."""
        return not self.error and self.same_tokens and self.nmse <= BOUND

    def failure_text(self) -> str:
        """What is wrong, as text, if it did not pass."""
        problem = self.error or (
            f"NMSE {self.nmse:.2g}" if self.same_tokens else f"another token, NMSE {self.nmse:.2g}"
        )
        return f"{self.case}: {problem}"


@dataclass(frozen=True)
class SubjectResult:
    """The results of one subject; `parts` are the names of the extra buffer types."""

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
        """Its name for the user."""
        return f"{self.subject.title} ({', '.join(self.parts)})" if self.parts else self.subject.title


@dataclass(frozen=True)
class BackendCheck:
    """All results of a build on this machine; `devices` by `identity.device_key`."""

    cpu: SubjectResult
    extra: SubjectResult | None = None  # None if there are no extra buffer types
    devices: Mapping[str, SubjectResult] = field(default_factory=dict)
    checked: str = ""  # the time of the check in ISO 8601

    @property
    def allows_extra_buffers(self) -> bool:
        """Whether extra buffer types may be used."""
        return self.extra is None or self.extra.passed

    @property
    def subjects(self) -> tuple[SubjectResult, ...]:
        """Everything that was checked."""
        return (self.cpu, *([self.extra] if self.extra else []), *self.devices.values())


# If the check was impossible: only the CPU's plain path is used.
UNCHECKED: Final = BackendCheck(SubjectResult(PLAIN), SubjectResult(EXTRA))


def as_json(check: BackendCheck) -> dict[str, Any]:
    """The check as a JSON object; `check_from_json` converts it back."""
    return asdict(check)


def check_from_json(fields: Mapping[str, Any]) -> BackendCheck:
    """The check from the result of `as_json`. Raises ValueError for anything else."""
    try:
        extra = fields["extra"]
        devices = {str(key): _subject_result(result) for key, result in fields["devices"].items()}
        return BackendCheck(
            _subject_result(fields["cpu"]), _subject_result(extra) if extra else None, devices, str(fields["checked"])
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a check: {error}") from error


def _subject_result(fields: Mapping[str, Any]) -> SubjectResult:
    cases = tuple(_case_result(case) for case in fields["cases"])
    return SubjectResult(_subject(fields["subject"]), cases, tuple(map(str, fields["parts"])))


def _subject(fields: Mapping[str, Any]) -> Subject:
    kind = fields["kind"]
    if kind not in ("cpu", "extra", "device"):
        raise ValueError(f"not a subject: {kind!r}")
    return Subject(kind, str(fields["name"]))


def _case_result(fields: Mapping[str, Any]) -> CaseResult:
    nmse = float(fields["nmse"])
    if math.isnan(nmse):
        raise ValueError("not an error: nan")
    return CaseResult(str(fields["case"]), nmse, bool(fields["same_tokens"]), str(fields["error"]))
