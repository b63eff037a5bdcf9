"""`qwenctl show`: shows everything about a local model."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Any

from quantize.formatting import format_bytes
from qwenctl.commands.options import common as options
from qwenctl.commands.options.local_model import Name, find_one_installed
from qwenctl.commands.quantize.result import print_json
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.streams import text_writer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qwenctl.hub.local.installed import InstalledModel
    from qwenctl.hub.local.verification import ExpectedFile


def show_command(name: Name, json: options.Json = False) -> None:
    """Show a local model's files, origin and metadata."""
    from qwenctl.hub.local.verification import expected_files

    model = find_one_installed(name)
    files = expected_files(model)
    facts = _facts(model)
    if json:
        print_json({**facts, "files": [_file_fields(one) for one in files]})
        return
    lines = [f"{label:<16}{clean_line(str(facts[key]))}" for key, label in _LABELS.items() if facts.get(key)]
    lines += [f"{'file':<16}{_file_line(one)}" for one in files]
    text_writer(sys.stdout)("\n".join(lines) + "\n")


def _file_fields(one: ExpectedFile) -> dict[str, Any]:
    there = one.path.stat().st_size if one.path.exists() else None
    return {"path": str(one.path), "size": there, "hash": one.etag or None}


def _file_line(one: ExpectedFile) -> str:
    there = format_bytes(one.path.stat().st_size) if one.path.exists() else "missing"
    return f"{clean_line(one.name)}  {there}  {one.etag or 'no known hash'}"


_LABELS = {
    "name": "name", "repository": "repository", "commit": "commit", "license": "license",
    "architecture": "architecture", "context_length": "context length", "recipe": "quantization",
    "template_sha256": "chat template", "path": "path",
}  # fmt: skip


def _facts(model: InstalledModel) -> dict[str, Any]:
    from qwenctl.views.models import model_fields

    metadata = _metadata(model)
    architecture = str(metadata.get("general.architecture") or "")
    template = metadata.get("tokenizer.chat_template")
    return {
        **model_fields(model),
        "license": _license(model) or metadata.get("general.license") or None,
        "architecture": architecture or None,
        "context_length": metadata.get(f"{architecture}.context_length"),
        "recipe": metadata.get("qwenctl.recipe"),
        "template_sha256": hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None,
    }


def _metadata(model: InstalledModel) -> Mapping[str, object]:
    """The metadata of a GGUF file; for a checkpoint, the same keys from its files."""
    from quantize.checkpoint import read_json
    from quantize.gguf_header import read_header
    from qwenctl.hub.local.installed import CHECKPOINT

    if model.quant != CHECKPOINT:
        return read_header(model.files[0]).metadata
    config = read_json(model.path / "config.json")
    name = str(config.get("model_type", ""))
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    template = model.path / "chat_template.jinja"
    return {
        "general.architecture": name,
        f"{name}.context_length": text.get("max_position_embeddings"),
        "tokenizer.chat_template": template.read_text(encoding="utf-8") if template.is_file() else None,
    }


def _license(model: InstalledModel) -> str:
    """The license of the repository at the time of the pull; "" if unknown."""
    from qwenctl.errors import QwenctlError
    from qwenctl.hub.local.lock_file import LOCK_NAME, read_lock

    folder = model.cache.snapshot_folder(model.commit) if model.cache else model.files[0].parent
    try:
        models = read_lock(folder / LOCK_NAME)
    except QwenctlError:
        return ""
    return next((one.license for one in models if one.repository == model.repository and one.license), "")
