"""Read the chat templates of a checkpoint: from the files that transformers reads them from, in its order.

The folder and its tokenizer_config.json come in; templates by name go out ("default" is the one that chats use).
chat_template.jinja and additional_chat_templates count before tokenizer_config.json, which counts before the
chat_template.json of older multimodal releases. A template that is not used though it differs is mentioned.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFWriter

from quantize.checkpoint import read_json
from quantize.errors import BadCheckpoint

_JINJA, _CONFIG, _OLD = "chat_template.jinja", "tokenizer_config.json", "chat_template.json"
_HINT = "download it again"

Templates = Mapping[str, str]


def read_chat_templates(folder: Path, config: Mapping[str, Any]) -> tuple[Templates, tuple[str, ...]]:
    """Return the templates by name, and notes about others; `config` is tokenizer_config.json, empty if it is missing.

    Raises BadCheckpoint for a file that is no text, or a template that is none or empty.
    """
    old = read_json(folder / _OLD) if (folder / _OLD).is_file() else {}
    sources = {_JINJA: _read_files(folder), _CONFIG: _parse(config, _CONFIG), _OLD: _parse(old, _OLD)}
    given = [(name, templates) for name, templates in sources.items() if templates]
    if not given:
        return {}, ()
    leader, templates = given[0]
    ignored = [name for name, others in given[1:] if others.get("default") not in (None, templates.get("default"))]
    return templates, tuple(f"the chat template is that of {leader}; {name} has another one" for name in ignored)


def add_chat_templates(writer: GGUFWriter, templates: Templates) -> None:
    """Add the templates to `writer`, in an order that is the same in every process."""
    for name in sorted(templates):
        # One name at a time: gguf writes a set of names, whose order changes.
        if name == "default":
            writer.add_chat_template(templates[name])
        else:
            writer.add_string(f"tokenizer.chat_template.{_key(name)}", templates[name])
    if names := sorted({_key(name) for name in templates if name != "default"}):
        writer.add_array("tokenizer.chat_templates", names)


def _key(name: str) -> str:
    """A name as part of a key, as gguf writes it."""
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in name)


def _read_files(folder: Path) -> dict[str, str]:
    """The templates that are files of their own; "default" first."""
    paths = {"default": folder / _JINJA} if (folder / _JINJA).is_file() else {}
    if paths:  # as in transformers and gguf, which read the others only beside it
        paths |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    return {name: _check(_read_text(path), path.name) for name, path in paths.items()}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadCheckpoint(f"{path.name} is no text in UTF-8", _HINT) from error


def _parse(settings: Mapping[str, Any], file: str) -> dict[str, str]:
    """The templates in a JSON file: one text, or several by name."""
    value = settings.get("chat_template")
    if isinstance(value, list):
        entries = [entry if isinstance(entry, Mapping) else {} for entry in value]
        value = {str(entry.get("name")): entry.get("template") for entry in entries}
    if not isinstance(value, Mapping):
        value = {} if value is None else {"default": value}
    return {str(name): _check(template, file) for name, template in value.items()}


def _check(template: object, file: str) -> str:
    """Return `template`. Raises BadCheckpoint if it is no text, or empty."""
    if not isinstance(template, str) or not template.strip():
        raise BadCheckpoint(f"the chat template in {file} is {'empty' if template == '' else 'no text'}", _HINT)
    return template
