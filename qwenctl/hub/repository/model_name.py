"""Parse model names: `qwen3.5-35b-a3b`, `Qwen/Qwen3.5-35B-A3B`, `hf.co/unsloth/Qwen3.5-35B-A3B-GGUF:q4_k_m`, and links.

Text comes in, a `ModelName` goes out; whether the model exists is not known here. Quantization labels are compared
without regard to case and separators. A link is what a browser shows on the Hub: the address of a repository, of a
folder in it, or of a file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote

from qwenctl.errors import ExitCode, QwenctlError, command_line
from qwenctl.hub.repository.catalog import ModelFamily, find_family, nearest_repository

# Prefixes that users paste with a name: addresses of model pages, and hf: URIs.
_HOSTS = r"(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)"
_PREFIX = re.compile(rf"(?:https?:/{{1,2}})?{_HOSTS}/(?:models/)?|hf:/{{1,2}}(?:models/)?|hf:", re.IGNORECASE)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_REVISION = re.compile(r"(?!.*(\.\.|//))[\w][\w./-]{0,200}")
# After OWNER/NAME in the address of a folder, a file or a commit: KIND/REVISION/PATH.
_ADDRESS_KINDS = ("tree", "blob", "resolve", "raw", "blame", "edit", "commit", "commits")
_LABEL = re.compile(r"[^/\\:@\x00-\x1f]+")  # a type, or the name of a file without one
# llama.cpp's types and mixes, as publishers write them in file names.
QUANT = r"(?:UD[-_])?(?:I?Q\d(?:_\w+?)?|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32)"


@dataclass(frozen=True)
class ModelName:
    """A parsed model name: a repository, a model of the catalog, or both; `quant` as typed, "" for any.

    `file` is the path of a file or folder of the repository, if the name is a link to one.
    """

    text: str
    repository: str
    family: ModelFamily | None
    quant: str = ""
    revision: str = ""
    file: str = ""

    @property
    def base(self) -> str:
        """The name without quantization and revision."""
        return self.repository or (self.family.name if self.family else self.text)


def parse_name(text: str) -> ModelName:
    """Parse `text` as a model name or a link. Raises QwenctlError if it is neither."""
    rest, is_link = _strip_prefix(text.strip())
    rest, revision, file = _split_address(rest) if is_link else (rest, "", "")
    rest, _, quant = rest.partition(":")
    rest, _, named_revision = rest.rstrip("/").partition("@")
    revision = named_revision or revision
    # NAME@Q4_K_M is accepted for NAME:Q4_K_M.
    if revision and re.fullmatch(QUANT, revision, re.IGNORECASE) and not quant:
        revision, quant = "", revision
    if revision:
        check_revision(revision)
    if quant and not _LABEL.fullmatch(quant):
        raise _invalid_name_error(text)
    family = find_family(rest)
    if _REPOSITORY.fullmatch(rest) and ".." not in rest:
        return ModelName(text, rest, family, quant, revision, file)
    if family is None:
        raise _invalid_name_error(text)
    return ModelName(text, "", family, quant, revision)


def is_link(text: str) -> bool:
    """Whether `text` is an address on the Hub, and so no path on this machine."""
    return bool(re.match(r"https?:/", text.strip(), re.IGNORECASE)) or _strip_prefix(text.strip())[1]


def _strip_prefix(text: str) -> tuple[str, bool]:
    """`text` without the address of the Hub, and whether it began with that."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if endpoint:  # the address of a mirror; a path may have joined its slashes
        for prefix in (f"{endpoint}/", f"{endpoint.replace('://', ':/', 1)}/"):
            if text.startswith(prefix):
                return text.removeprefix(prefix), True
    found = _PREFIX.match(text)
    return (text[found.end() :], True) if found else (text, False)


def _split_address(rest: str) -> tuple[str, str, str]:
    """Split an address after its host into the name, the revision, and the path of a file or folder in it."""
    address, _, query = rest.partition("#")[0].partition("?")
    shown = parse_qs(query).get("show_file_info", [""])[0]  # the Hub's own viewer of GGUF files
    # Split before the slashes inside a revision are unquoted: refs%2Fpr%2F1 is one part.
    parts = [unquote(part) for part in address.split("/") if part]
    if parts and parts[0] in ("datasets", "spaces", "collections", "papers"):
        return rest, "", ""
    name, more = "/".join(parts[:2]).removesuffix(".git"), parts[2:]
    if more and more[0] in _ADDRESS_KINDS:
        return name, more[1] if len(more) > 1 else "", "/".join(more[2:])
    if more[-1:] and more[-1].lower().endswith(".gguf"):  # hf://OWNER/NAME/FILE
        return name, "", "/".join(more)
    return name, "", shown


def check_revision(revision: str) -> str:
    """Return `revision` if it is a valid name of a branch, a tag or a commit. Raises QwenctlError otherwise."""
    if not _REVISION.fullmatch(revision) or revision.endswith((".lock", "/", ".")):
        raise QwenctlError(f"'{revision}' is not the name of a branch, a tag or a commit", "--revision main")
    return revision


def quant_key(label: str) -> str:
    """A key that is equal for all spellings of a quantization label."""
    return re.sub(r"[\W_]", "", label.lower())


def _invalid_name_error(text: str) -> QwenctlError:
    """The error for text that is not a model name, with a suggestion if one is near."""
    if _exists(text):
        return QwenctlError(f"'{text}' is a file here, not a name on the Hub", command_line("show", Path(text)))
    near = nearest_repository(re.split("[:@]", text)[0])
    hint = f"did you mean {near}?" if near else "OWNER/NAME of a repository, or a short name such as qwen3.5-35b-a3b"
    return QwenctlError(f"'{text}' does not name a model", hint, ExitCode.NO_INPUT)


def _exists(text: str) -> bool:
    """Whether `text` is the path of a file or folder."""
    try:
        return bool(text.strip()) and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a null character, or no home folder
        return False
