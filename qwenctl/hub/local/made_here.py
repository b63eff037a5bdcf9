"""Remember what was quantized here from a checkpoint folder: in the lock file beside it, and among the models of `ls`.

A `ConversionPlan` comes in with its options and the SHA-256 of its files; the SHA-256 that an earlier run has left for
the same plan go out.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantize.output.partial_output import recorded_hashes, translate_disk_errors
from quantize.plan import ConversionPlan, QuantizeOptions
from qwenctl.errors import QwenctlError
from qwenctl.hub.local.lock_file import LOCK_NAME, LockedFile, LockedModel, add_to_lock, read_lock
from qwenctl.hub.local.recipe_args import recipe_to_args
from qwenctl.hub.local.registry import LocalConversion, find_hashes, register_conversion, registered_models


def record_made(plan: ConversionPlan, options: QuantizeOptions, hashes: Sequence[str]) -> None:
    """Record the files of `plan`, which `options` led to. Raises as `translate_disk_errors`."""
    source, paths = plan.checkpoint, tuple(str(file.path.absolute()) for file in plan.files)
    outputs = tuple(LockedFile(file.path.name, file.n_bytes, one) for file, one in zip(plan.files, hashes, strict=True))
    entry = LockedModel(
        source.repository or source.name, source.revision, "", (), recipe=recipe_to_args(options), outputs=outputs,
        fingerprint=plan.fingerprint,
    )  # fmt: skip
    with translate_disk_errors(plan.files[0].path):
        if _find_entry(plan) != entry:
            add_to_lock(plan.files[0].path.parent, entry)
    made = LocalConversion(paths, source.repository or source.name, source.revision, plan.recipe.name)
    if made not in registered_models() or find_hashes(plan.files[0].path, plan.fingerprint) != tuple(hashes):
        register_conversion(made, plan.fingerprint, hashes)


def find_made_hashes(plan: ConversionPlan) -> tuple[str, ...]:
    """The SHA-256 of the files that an earlier run of `plan` has made; none if it left no record of them.

    The files may have changed since then, or be gone.
    """
    entry = _find_entry(plan)
    if entry is not None:
        return tuple(file.sha256 for file in entry.outputs)
    return find_hashes(plan.files[0].path, plan.fingerprint) or recorded_hashes(plan)


def _find_entry(plan: ConversionPlan) -> LockedModel | None:
    names = [(file.path.name, file.n_bytes) for file in plan.files]
    try:
        models = read_lock(plan.files[0].path.parent / LOCK_NAME)
    except QwenctlError:  # there is none, or none that can be read
        return None
    same = (one for one in models if one.fingerprint == plan.fingerprint)
    return next((one for one in same if [(file.path, file.size) for file in one.outputs] == names), None)
