"""Find the models on this machine: those in the caches, whichever tool downloaded them, and those quantized here.

Cache folders come in, `InstalledModel` values go out. Of model files only the first bytes of the header are read, to
see whether they are Qwen3.5 models. Which model a name means is decided in `resolve_model`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantize.foreign_json import as_object, read_json_object
from qwenctl.errors import QwenctlError
from qwenctl.hub.local.hf_cache import RepoCache, default_cache_root
from qwenctl.hub.local.lock_file import LOCK_NAME, LockedModel, read_lock
from qwenctl.hub.local.registry import registered_models, registered_roots
from qwenctl.hub.repository.listing import RemoteFile
from qwenctl.hub.repository.quantizations import find_quants, find_vision
from qwenctl.models.gguf_check import ARCHITECTURES, split_files
from qwenctl.models.gguf_kind import kind_from_header, read_start

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class InstalledModel:
    """A model on this machine. `quant` is "checkpoint" for weights as published.

    `missing_parts` is the number of splits or shards that are missing. `cache` is None for a model quantized here.
    """

    repository: str
    quant: str
    commit: str
    files: tuple[Path, ...]
    cache: RepoCache | None
    missing_parts: int = 0

    @property
    def name(self) -> str:
        """The model's name; other commits of the same model have the same."""
        return f"{self.repository}:{self.quant}"

    @property
    def qualified_name(self) -> str:
        """A name that only this model has."""
        return f"{self.repository}@{self.commit[:12]}:{self.quant}" if self.cache else str(self.path)

    @property
    def path(self) -> Path:
        """The file to load, or the folder of a checkpoint."""
        return self.files[0].parent if self.quant == CHECKPOINT else self.files[0]

    @property
    def n_bytes(self) -> int:
        """Size of its files in bytes."""
        return sum(path.stat().st_size for path in self.files)


def find_installed_models(roots: Sequence[Path] = (), *, damaged: bool = False) -> list[InstalledModel]:
    """All models in the caches `roots` (by default, all known caches), and those quantized here.

    With `damaged`, those count too that were stored by this program and whose header says something else now. They are
    sorted by name. Of several commits, the default one comes last: the commit of main at the last pull, or
    else the most recent one.
    """
    caches = dict.fromkeys(root.absolute() for root in roots or (default_cache_root(), *registered_roots()))
    cached = [model for root in caches for model in _find_in_cache(root, damaged=damaged)]
    return sorted([*cached, *_find_conversions(damaged=damaged)], key=lambda model: model.name.casefold())


def _find_in_cache(root: Path, *, damaged: bool) -> Iterator[InstalledModel]:
    """Find the models in a cache; the snapshots of a repository by age, but the one of main last."""
    for folder in sorted(root.glob("models--*--*")):
        cache = RepoCache(root, folder.name.removeprefix("models--").replace("--", "/"))
        main = cache.resolve_revision("main")
        snapshots = (folder / "snapshots").glob("*")
        for snapshot in sorted(snapshots, key=lambda path: (path.name == main, path.stat().st_mtime)):
            yield from _find_in_snapshot(cache, snapshot, damaged=damaged)


def _find_in_snapshot(cache: RepoCache, snapshot: Path, *, damaged: bool) -> Iterator[InstalledModel]:
    """Find the GGUF models and the checkpoint in a snapshot folder; all models share its mmproj file."""
    paths = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}
    # As a listing without hashes, so that the same code groups splits here and on the Hub.
    files = [RemoteFile(name, path.stat().st_size, "") for name, path in sorted(paths.items())]
    headers = {name: read_start(path) for name, path in paths.items() if path.suffix.lower() == ".gguf"}
    kinds = {name: kind_from_header(name, header) for name, header in headers.items()}
    vision = find_vision(files, kinds.__getitem__)
    vision_paths = (paths[vision.path],) if vision else ()
    listed = {file.path for entry in _read_lock(snapshot) for file in entry.files} if damaged else set[str]()
    for quant in find_quants(files, kinds.__getitem__):
        paths_of_quant = tuple(paths[file.path] for file in quant.files)
        first = quant.files[0].path
        if _is_qwen(headers.get(first)) or first in listed:
            yield InstalledModel(
                cache.repository, quant.label, snapshot.name, paths_of_quant + vision_paths, cache, quant.missing_parts
            )
    shards = tuple(path for name, path in paths.items() if re.fullmatch(r"[^/]+\.safetensors", name))
    if shards and "config.json" in paths and _is_qwen_config(paths["config.json"]):
        others = tuple(
            path for path in paths.values() if path not in shards and path.suffix != ".gguf" and path.name != LOCK_NAME
        )
        missing = _count_missing_shards(paths.get("model.safetensors.index.json"), set(paths))
        yield InstalledModel(cache.repository, CHECKPOINT, snapshot.name, shards + others, cache, missing)


def model_at(path: Path) -> InstalledModel | None:
    """The model in a GGUF file that no command of this program has stored, with its splits; None if it is none."""
    files = tuple(file.absolute() for file in split_files(path) if file.is_file())
    if not path.is_file() or not files or not _is_qwen_model(files[0]):
        return None
    quants = find_quants([RemoteFile(path.name, 0, "")], lambda _: "model")
    label = quants[0].label if quants else ""
    return InstalledModel(path.stem, label, "", files, None, len(split_files(path)) - len(files))


def models_in(folder: Path, installed: Sequence[InstalledModel]) -> list[InstalledModel]:
    """The models whose files are in `folder` itself, also those that only its lock file lists as made there."""
    here = folder.absolute()
    found = [model for model in installed if model.files[0].absolute().parent == here]
    known = {path.absolute() for model in found for path in model.files}
    for path in sorted(here.glob("*.gguf")):
        if path not in known and (model := model_at(split_files(path)[0])) is not None:
            found.append(model)
            known.update(model.files)
    return [*found, *(model for model in listed_models(here) if model.path not in known)]


def listed_models(folder: Path) -> list[InstalledModel]:
    """The models that the lock file in `folder` lists as quantized here, whether their files are there or not."""
    return [
        InstalledModel(
            entry.repository, "", entry.commit, tuple(folder.absolute() / file.path for file in entry.outputs), None
        )
        for entry in _read_lock(folder)
        if entry.outputs
    ]


def _read_lock(folder: Path) -> list[LockedModel]:
    """The entries of the lock file in `folder`; none if there is none, or none that can be read."""
    try:
        return read_lock(folder / LOCK_NAME)
    except QwenctlError:
        return []


def _is_qwen_model(path: Path) -> bool:
    """Whether a GGUF file is a Qwen3.5 model."""
    return _is_qwen(read_start(path))


def _is_qwen(metadata: Mapping[str, object] | None) -> bool:
    """Whether a file with this metadata at its start is a Qwen3.5 model; None: of a file that cannot be read."""
    return metadata is not None and metadata.get("general.architecture") in ARCHITECTURES


def _is_qwen_config(path: Path) -> bool:
    """Whether a config.json is that of a Qwen3.5 model."""
    try:
        return "Qwen3_5" in str(read_json_object(path).get("architectures"))
    except (OSError, ValueError, AttributeError):
        return False


def _count_missing_shards(index: Path | None, present: set[str]) -> int:
    """The number of shards that the index lists but that are not `present`; 0 without a readable index."""
    try:
        names = as_object(read_json_object(index)["weight_map"], "weight_map").values() if index else ()
    except (OSError, ValueError, KeyError):
        return 0
    return len({str(name) for name in names} - present)


def _find_conversions(*, damaged: bool) -> Iterator[InstalledModel]:
    """Find the models quantized here that still exist."""
    for conversion in registered_models():
        files = tuple(path for path in map(Path, conversion.paths) if path.is_file())
        if damaged or _is_qwen_model(files[0]):
            yield InstalledModel(conversion.repository, conversion.type_name, conversion.commit, files, None)
