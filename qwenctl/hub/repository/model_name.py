"""Parse model names: `qwen3.5-35b-a3b`, `Qwen/Qwen3.5-35B-A3B`, `hf.co/unsloth/Qwen3.5-35B-A3B-GGUF:q4_k_m`.

Text comes in, a `ModelName` goes out; whether the model exists is not known here. Quantization labels are compared
without regard to case and separators.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.repository.catalog import ModelFamily, find_family, nearest_repository

# Prefixes that users paste with a name: addresses of model pages, and hf: URIs.
_PREFIX = re.compile(r"(https?:/{1,2})?(www\.)?(huggingface\.co|hf\.co)/(models/)?|hf:/{1,2}(models/)?", re.IGNORECASE)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_REVISION = re.compile(r"(?!.*(\.\.|//))[\w][\w./-]{0,200}")
# llama.cpp's types and mixes, as publishers write them in file names.
QUANT = r"(?:UD[-_])?(?:I?Q\d(?:_\w+?)?|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32)"


@dataclass(frozen=True)
class ModelName:
    """A parsed model name: a repository, a model of the catalog, or both; `quant` as typed, "" for any."""

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
    """Parse `text` as a model name. Raises QwenctlError if it is not one."""
    rest = _PREFIX.sub("", text.strip(), count=1) if _PREFIX.match(text.strip()) else text.strip()
    rest, _, quant = rest.partition(":")
    rest, _, revision = rest.rstrip("/").partition("@")
    # NAME@Q4_K_M is accepted for NAME:Q4_K_M.
    if revision and re.fullmatch(QUANT, revision, re.IGNORECASE) and not quant:
        revision, quant = "", revision
    if revision:
        check_revision(revision)
    if quant and not re.fullmatch(r"[\w.-]+", quant):
        raise _invalid_name_error(text)
    family = find_family(rest)
    if _REPOSITORY.fullmatch(rest) and ".." not in rest:
        return ModelName(text, rest, family, quant, revision)
    if family is None:
        raise _invalid_name_error(text)
    return ModelName(text, "", family, quant, revision)


def check_revision(revision: str) -> str:
    """Return `revision` if it is a valid name of a branch, a tag or a commit. Raises QwenctlError otherwise."""
    if not _REVISION.fullmatch(revision) or revision.endswith((".lock", "/", ".")):
        raise QwenctlError(f"'{revision}' is not the name of a branch, a tag or a commit", "--revision main")
    return revision


def quant_key(label: str) -> str:
    """A key that is equal for all spellings of a quantization label."""
    return re.sub(r"[^a-z0-9]", "", label.lower())


def _invalid_name_error(text: str) -> QwenctlError:
    """The error for text that is not a model name, with a suggestion if one is near."""
    near = nearest_repository(re.split("[:@]", text)[0])
    hint = f"did you mean {near}?" if near else "OWNER/NAME of a repository, or a short name such as qwen3.5-35b-a3b"
    return QwenctlError(f"'{text}' does not name a model", hint, ExitCode.NO_INPUT)
