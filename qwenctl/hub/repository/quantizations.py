"""Find the quantizations in a repository: which files belong together, and their labels.

A list of files comes in; a `Quant` for each GGUF model goes out, smallest first, and the mmproj file to go with it.
Nothing is downloaded: sizes come from the listing, labels from the file names.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from qwenctl.errors import ExitCode, QwenctlError, command_line, quote
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.repository.model_name import QUANT, quant_key
from qwenctl.models.gguf_kind import GGUFKind, is_doubtful, kind_from_name, mmproj_rank

_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_LABEL = re.compile(rf"(?:^|[-_./])({QUANT})(?=$|[-./])", re.IGNORECASE)
KindOf = Callable[[str], GGUFKind]  # what the GGUF file at a path is


@dataclass(frozen=True)
class Quant:
    """A GGUF model; `files` are its splits in order, and `missing_parts` of them are not in the repository."""

    label: str
    files: tuple[RemoteFile, ...]
    missing_parts: int = 0

    @property
    def n_bytes(self) -> int:
        """Size of all its files in bytes."""
        return sum(file.size for file in self.files)


def find_quants(files: Sequence[RemoteFile], kind_of: KindOf = kind_from_name) -> list[Quant]:
    """Group the GGUF models among `files` by their splits, smallest model first."""
    groups: dict[str, list[RemoteFile]] = defaultdict(list)
    for file in files:
        # Splits share the name before their number and the number of splits; any other file is a group of its own.
        if file.path.lower().endswith(".gguf") and kind_of(file.path) == "model":
            split = _SPLIT.fullmatch(file.path)
            groups[f"{split[1]} of {split[3]}" if split else file.path].append(file)
    quants = [_build_quant(sorted(group, key=lambda file: file.path)) for group in groups.values()]
    return sorted(quants, key=lambda quant: quant.n_bytes)


def _build_quant(files: list[RemoteFile]) -> Quant:
    """Build a `Quant` from a group of files; its label is the last type in the file name, or else the whole name."""
    split = _SPLIT.fullmatch(files[0].path)
    stem = split[1] if split else files[0].path[: -len(".gguf")]
    labels = _LABEL.findall(stem)
    label = labels[-1].upper().replace("UD_", "UD-") if labels else PurePosixPath(stem).name
    return Quant(label, tuple(files), int(split[3]) - len(files) if split else 0)


def find_vision(files: Sequence[RemoteFile], kind_of: KindOf = kind_from_name) -> RemoteFile | None:
    """The mmproj file to go with a model, preferably in F16; None if there is none."""
    candidates = [file for file in files if file.path.lower().endswith(".gguf") and kind_of(file.path) == "mmproj"]
    return min(candidates, key=lambda file: mmproj_rank(file.path), default=None)


def choose_file(listing: Listing, path: str) -> Quant:
    """The complete quantization to which the file at `path` belongs, or the only one in the folder at `path`.

    Raises QwenctlError if there is none, or if there are several.
    """
    quants = [quant for quant in find_quants(listing.files) if any(_is_at(file, path) for file in quant.files)]
    repository = listing.repository
    see = f"`{command_line('ls', repository)}`"
    if not quants:
        is_there = any(_is_at(file, path) for file in listing.files)
        what = "is no GGUF model" if is_there else "does not exist"
        raise QwenctlError(f"{path} {what} in {repository}@{listing.revision[:12]}", see, ExitCode.NO_INPUT)
    if len(quants) > 1:
        labels = ", ".join(quant.label for quant in quants)
        raise QwenctlError(f"{path} of {repository} has {len(quants)} quantizations: {labels}", see)
    if missing := quants[0].missing_parts:
        message = f"{repository} lacks {missing} of the {missing + len(quants[0].files)} parts of {quants[0].label}"
        raise QwenctlError(message, f"another quantization ({see})", ExitCode.NO_INPUT)
    return quants[0]


def _is_at(file: RemoteFile, path: str) -> bool:
    """Whether a file has this path, or is in the folder with this path."""
    return file.path == path or file.path.startswith(f"{path.rstrip('/')}/")


def choose_quant(listing: Listing, label: str) -> Quant:
    """Find the complete quantization called `label`. Raises QwenctlError that suggests the nearest label."""
    quants = find_quants(listing.files)
    matches = [quant for quant in quants if quant_key(quant.label) == quant_key(label)]
    complete = [quant for quant in matches if not quant.missing_parts]
    if complete:
        return min(complete, key=lambda quant: is_doubtful(quant.files[0].path))
    name = f"{listing.repository}@{listing.revision[:12]}"
    if matches:
        missing, parts = matches[0].missing_parts, matches[0].missing_parts + len(matches[0].files)
        message = f"{name} lacks {missing} of the {parts} parts of {matches[0].label}"
        raise QwenctlError(
            message, f"another quantization (`{command_line('ls', listing.repository)}`)", ExitCode.NO_INPUT
        )
    if not quants:
        hint = f"--quantize {quote(label)}" if any(file.path.endswith(".safetensors") for file in listing.files) else ""
        raise QwenctlError(f"no GGUF file in {name}", hint or f"https://hf.co/{listing.repository}", ExitCode.NO_INPUT)
    near = difflib.get_close_matches(label.upper(), [quant.label for quant in quants], n=1, cutoff=0)[0]
    raise QwenctlError(
        f"no file '{label}' in {name}; {len(quants)} quantizations exist",
        f"nearest: {near} (`{command_line('ls', listing.repository)}`)",
        ExitCode.NO_INPUT,
    )
