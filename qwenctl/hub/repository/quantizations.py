"""The quantizations in a repository: which files belong together, and what they are called.

A list of files comes in; a `Quant` for each GGUF model goes out, smallest first, and the vision towers beside them.
Nothing is fetched: sizes are those of the list, labels those that publishers write into the names.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.repository.model_name import QUANT, quant_key

_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_LABEL = re.compile(rf"(?:^|[-_./])({QUANT})(?=$|[-./])", re.IGNORECASE)
_NO_MODEL = re.compile(r"(mmproj|imatrix|mtp-)", re.IGNORECASE)
_VISION_ORDER = ("f16", "bf16", "f32")


@dataclass(frozen=True)
class Quant:
    """A GGUF model; `files` in the order of its splits, of which `lacking` are not in the repository."""

    label: str
    files: tuple[RemoteFile, ...]
    lacking: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


def find_quants(files: Sequence[RemoteFile]) -> list[Quant]:
    """The GGUF models among `files`, smallest first."""
    groups: dict[str, list[RemoteFile]] = defaultdict(list)
    for file in files:
        if file.path.lower().endswith(".gguf") and not _NO_MODEL.match(PurePosixPath(file.path).name):
            split = _SPLIT.fullmatch(file.path)
            groups[f"{split[1]} of {split[3]}" if split else file.path].append(file)
    found = [_quant(sorted(group, key=lambda file: file.path)) for group in groups.values()]
    return sorted(found, key=lambda quant: quant.n_bytes)


def _quant(files: list[RemoteFile]) -> Quant:
    split = _SPLIT.fullmatch(files[0].path)
    stem = split[1] if split else files[0].path[: -len(".gguf")]
    labels = _LABEL.findall(stem)
    label = labels[-1].upper().replace("UD_", "UD-") if labels else PurePosixPath(stem).name
    return Quant(label, tuple(files), int(split[3]) - len(files) if split else 0)


def find_vision(files: Sequence[RemoteFile]) -> RemoteFile | None:
    """The vision tower to go with a model: F16 before others, as nothing computes with more."""
    towers = [file for file in files if re.match(r"mmproj.*\.gguf$", PurePosixPath(file.path).name, re.IGNORECASE)]

    def rank(file: RemoteFile) -> int:
        labels = [label.lower() for label in _LABEL.findall(file.path[: -len(".gguf")])]
        return _VISION_ORDER.index(labels[-1]) if labels and labels[-1] in _VISION_ORDER else len(_VISION_ORDER)

    return min(towers, key=rank, default=None)


def choose_quant(listing: Listing, label: str) -> Quant:
    """The quantization that is called `label`. Raises QwenctlError with the nearest names."""
    quants = find_quants(listing.files)
    found = [quant for quant in quants if quant_key(quant.label) == quant_key(label)]
    whole = [quant for quant in found if not quant.lacking]
    if whole:
        return whole[0]
    where = f"{listing.repository}@{listing.revision[:12]}"
    if found:
        lacking, parts = found[0].lacking, found[0].lacking + len(found[0].files)
        message = f"{where} lacks {lacking} of the {parts} parts of {found[0].label}"
        raise QwenctlError(message, f"another quantization (`qwenctl ls {listing.repository}`)", ExitCode.NO_INPUT)
    if not quants:
        hint = f"--quantize {label}" if any(one.path.endswith(".safetensors") for one in listing.files) else ""
        raise QwenctlError(f"no GGUF file in {where}", hint or f"https://hf.co/{listing.repository}", ExitCode.NO_INPUT)
    near = difflib.get_close_matches(label.upper(), [quant.label for quant in quants], n=1, cutoff=0)[0]
    raise QwenctlError(
        f"no file '{label}' in {where}; {len(quants)} quantizations exist",
        f"nearest: {near} (`qwenctl ls {listing.repository}`)",
        ExitCode.NO_INPUT,
    )
