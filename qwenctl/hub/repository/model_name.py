"""What a person calls a model: `qwen3.5-35b-a3b`, `Qwen/Qwen3.5-35B-A3B`, `hf.co/unsloth/Qwen3.5-35B-A3B-GGUF:q4_k_m`.

Text comes in, a `ModelName` goes out. Names of quantizations are the same in any case and with any separators.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.repository.catalog import ModelFamily, find_family, nearest_repository

_PREFIX = re.compile(r"(https?:/{1,2})?(www\.)?(huggingface\.co|hf\.co)/(models/)?|hf:/{1,2}(models/)?", re.IGNORECASE)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_REVISION = re.compile(r"(?!.*(\.\.|//))[\w][\w./-]{0,200}")
# The types of llama.cpp and their mixes, as publishers write them into names of files.
QUANT = r"(?:UD[-_])?(?:I?Q\d(?:_\w+?)?|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32)"


@dataclass(frozen=True)
class ModelName:
    """A model as it was asked for: a repository, a model of the catalogue, or both; `quant` as typed, "" for any."""

    text: str
    repository: str
    family: ModelFamily | None
    quant: str = ""
    revision: str = ""

    @property
    def base(self) -> str:
        """The name without quantization and revision."""
        return self.repository or (self.family.name if self.family else self.text)


def parse_name(text: str) -> ModelName:
    """The model that `text` names. Raises QwenctlError if it is no name."""
    rest = _PREFIX.sub("", text.strip(), count=1) if _PREFIX.match(text.strip()) else text.strip()
    rest, _, quant = rest.partition(":")
    rest, _, after = rest.rstrip("/").partition("@")
    if after and re.fullmatch(QUANT, after, re.IGNORECASE) and not quant:
        after, quant = "", after
    if after:
        check_revision(after)
    if quant and not re.fullmatch(r"[\w.-]+", quant):
        raise _no_name(text)
    family = find_family(rest)
    if _REPOSITORY.fullmatch(rest) and ".." not in rest:
        return ModelName(text, rest, family, quant, after)
    if family is None:
        raise _no_name(text)
    return ModelName(text, "", family, quant, after)


def check_revision(revision: str) -> str:
    """`revision` if it can be a branch, a tag or a commit. Raises QwenctlError."""
    if not _REVISION.fullmatch(revision) or revision.endswith((".lock", "/", ".")):
        raise QwenctlError(f"'{revision}' is not the name of a branch, a tag or a commit", "--revision main")
    return revision


def quant_key(label: str) -> str:
    """What is the same for all spellings of a quantization."""
    return re.sub(r"[^a-z0-9]", "", label.lower())


def _no_name(text: str) -> QwenctlError:
    near = nearest_repository(re.split("[:@]", text)[0])
    hint = f"did you mean {near}?" if near else "OWNER/NAME of a repository, or a short name such as qwen3.5-35b-a3b"
    return QwenctlError(f"'{text}' does not name a model", hint, ExitCode.NO_INPUT)
