"""The models on this machine: in the caches, by whichever tool they came, and those that were made here.

Folders come in, `InstalledModel` values go out; and the path to load for a name. No file is opened but for the first
bytes of its header, which say whether it is a Qwen3.5 model.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import BadGGUF
from quantize.gguf_header import read_leading_metadata
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.hf_cache import RepoCache, default_root
from qwenctl.hub.local.lock_file import NAME
from qwenctl.hub.local.registry import noted_models, noted_roots
from qwenctl.hub.repository.catalog import find_family
from qwenctl.hub.repository.listing import RemoteFile
from qwenctl.hub.repository.model_name import ModelName, parse_name, quant_key
from qwenctl.hub.repository.quantizations import find_quants, find_vision
from qwenctl.models.gguf_check import ARCHITECTURES

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class InstalledModel:
    """A model here. `quant` is "checkpoint" for weights as published; `lacking` parts of it are not here.

    `cache` is None for a model that was made here.
    """

    repository: str
    quant: str
    commit: str
    files: tuple[Path, ...]
    cache: RepoCache | None
    missing_parts: int = 0

    @property
    def name(self) -> str:
        """What it can be called."""
        return f"{self.repository}:{self.quant}"

    @property
    def qualified_name(self) -> str:
        """What only this one is called."""
        return f"{self.repository}@{self.commit[:12]}:{self.quant}" if self.cache else str(self.path)

    @property
    def path(self) -> Path:
        """The file to load, or the folder of a checkpoint."""
        return self.files[0].parent if self.quant == CHECKPOINT else self.files[0]

    @property
    def n_bytes(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.files)


def local_models(roots: Sequence[Path] = ()) -> list[InstalledModel]:
    """All models in these caches (by default in all that are known), and those that were made here.

    They are sorted by name; of several commits the one that is meant without a word comes last: what main was when it
    was last asked for, or else the latest.
    """
    caches = dict.fromkeys(root.absolute() for root in roots or (default_root(), *noted_roots()))
    found = [model for root in caches for model in _in_cache(root)]
    return sorted([*found, *_made()], key=lambda model: model.name.casefold())


def _in_cache(root: Path) -> Iterator[InstalledModel]:
    for folder in sorted(root.glob("models--*--*")):
        cache = RepoCache(root, folder.name.removeprefix("models--").replace("--", "/"))
        main = cache.commit_of("main")
        snapshots = (folder / "snapshots").glob("*")
        for snapshot in sorted(snapshots, key=lambda path: (path.name == main, path.stat().st_mtime)):
            yield from _in_snapshot(cache, snapshot)


def _in_snapshot(cache: RepoCache, snapshot: Path) -> Iterator[InstalledModel]:
    paths = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}
    files = [RemoteFile(name, path.stat().st_size, "") for name, path in sorted(paths.items())]
    vision = find_vision(files)
    beside = (paths[vision.path],) if vision else ()
    for quant in find_quants(files):
        own = tuple(paths[file.path] for file in quant.files)
        if _is_ours(own[0]):
            yield InstalledModel(cache.repository, quant.label, snapshot.name, own + beside, cache, quant.lacking)
    shards = tuple(path for name, path in paths.items() if re.fullmatch(r"[^/]+\.safetensors", name))
    if shards and "config.json" in paths and _is_our_config(paths["config.json"]):
        others = tuple(
            path for path in paths.values() if path not in shards and path.suffix != ".gguf" and path.name != NAME
        )
        lacking = _lacking_shards(paths.get("model.safetensors.index.json"), set(paths))
        yield InstalledModel(cache.repository, CHECKPOINT, snapshot.name, shards + others, cache, lacking)


def _is_ours(path: Path) -> bool:
    """Whether a GGUF file is a model of the family."""
    try:
        return read_leading_metadata(path).get("general.architecture") in ARCHITECTURES
    except (OSError, BadGGUF):
        return False


def _is_our_config(path: Path) -> bool:
    try:
        return "Qwen3_5" in str(json.loads(path.read_bytes()).get("architectures"))
    except (OSError, ValueError, AttributeError):
        return False


def _lacking_shards(index: Path | None, there: set[str]) -> int:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values()) if index else set()
    except (OSError, ValueError, KeyError, AttributeError):
        return 0
    return len(names - there)


def _made() -> Iterator[InstalledModel]:
    for made in noted_models():
        files = tuple(path for path in map(Path, made.paths) if path.is_file())
        if _is_ours(files[0]):
            yield InstalledModel(made.repository, made.type_name, made.commit, files, None)


def filter_by_name(asked: ModelName, models: Sequence[InstalledModel]) -> list[InstalledModel]:
    """The models that a name can mean."""
    return [model for model in models if _is_meant(asked, model)]


def _is_meant(asked: ModelName, model: InstalledModel) -> bool:
    if asked.quant and quant_key(asked.quant) != quant_key(model.quant):
        return False
    if asked.revision and not _is_at(model, asked.revision):
        return False
    if asked.repository:
        return asked.repository.casefold() == model.repository.casefold()
    return asked.family is not None and asked.family == find_family(model.repository)


def _is_at(model: InstalledModel, revision: str) -> bool:
    """Whether a model is of this commit, or of the commit that this branch or tag was when it was pulled."""
    branch = model.cache.commit_of(revision) if model.cache else ""
    return model.commit == branch or model.commit.startswith(revision)


def find_model(text: str) -> Path:
    """The file to load of the model here that `text` names; `text` as a path if it is no name. Raises QwenctlError."""
    models = [model for model in local_models() if model.quant != CHECKPOINT]
    by_file = [model for model in models if model.path.stem == text]
    try:
        asked = parse_name(text)
    except QwenctlError:
        if by_file:
            return by_file[0].path
        return Path(text)
    found = by_file or filter_by_name(asked, models)
    whole = [model for model in found if not model.missing_parts]
    if not whole:
        raise _not_here(asked, found, models)
    names = dict.fromkeys(model.name for model in whole)
    if len(names) > 1:
        hint = f"-m {next(iter(names))}"
        raise QwenctlError(f"{len(names)} local models match {text}: {', '.join(names)}", hint)
    return whole[-1].path


def _not_here(asked: ModelName, found: Sequence[InstalledModel], models: Sequence[InstalledModel]) -> QwenctlError:
    if found:
        parts = f"{found[0].missing_parts} of its parts"
        return QwenctlError(f"{asked.text} lacks {parts}", f"qwenctl pull {found[0].name}", ExitCode.NO_INPUT)
    near = difflib.get_close_matches(asked.text, [model.name for model in models], n=1)
    hint = f"qwenctl pull {asked.text}" + (f", or use -m {near[0]}" if near else "")
    return QwenctlError(f"{asked.text} is not on this machine", hint, ExitCode.NO_INPUT)
