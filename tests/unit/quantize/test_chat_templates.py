"""The chat template is the one that transformers uses, whatever file has it; one that is not used is not silent."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.errors import BadCheckpoint
from quantize.plan import QuantizeOptions, make_plan
from quantize.qwen35.chat_templates import add_chat_templates, read_chat_templates
from tests.support import checkpoints
from tests.support.qwen35_layout import Model

JINJA, CONFIG, OLD = "chat_template.jinja", "tokenizer_config.json", "chat_template.json"
ORDER = (JINJA, CONFIG, OLD)


def read(folder: Path, files: Mapping[str, str]) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The templates and notes of a folder; `files` has the template of a file by its name."""
    for name, template in files.items():
        text = template if name.endswith(".jinja") else json.dumps({"chat_template": template})
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    config = json.loads((folder / CONFIG).read_text()) if CONFIG in files else {}
    return read_chat_templates(folder, config)


@given(st.dictionaries(st.sampled_from(ORDER), st.sampled_from(["one", "two"])))
def test_first_file_in_transformers_order_counts_and_others_are_noted(files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        templates, notes = read(Path(folder), files)
    given_names = [name for name in ORDER if name in files]
    assert templates == ({"default": files[given_names[0]]} if given_names else {})
    others = [name for name in given_names if files[name] != files[given_names[0]]]
    assert notes == tuple(f"the chat template is that of {given_names[0]}; {name} has another one" for name in others)


def test_named_templates_are_all_read(tmp_path: Path) -> None:
    entries: Any = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    assert read(tmp_path, {CONFIG: entries})[0] == {"default": "a", "tool_use": "b"}
    files = {JINJA: "a", "additional_chat_templates/tool-use.jinja": "b", "additional_chat_templates/rag.jinja": "c"}
    templates = read(tmp_path, files)[0]
    assert templates == {"default": "a", "tool-use": "b", "rag": "c"}
    writer = gguf.GGUFWriter(None, "qwen35")
    add_chat_templates(writer, templates)
    keys = {key: value.value for key, value in writer.kv_data[0].items() if "chat" in key}
    assert keys == {
        "tokenizer.chat_template": "a", "tokenizer.chat_template.tool_use": "b", "tokenizer.chat_template.rag": "c",
        "tokenizer.chat_templates": ["rag", "tool_use"],
    }  # fmt: skip


@pytest.mark.parametrize("value", ["", 5, True, [{"name": "default"}], ["a"], {"default": None}])
def test_template_that_is_none_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"the chat template in tokenizer_config\.json is (empty|no text)"):
        read(tmp_path, {CONFIG: value})


def test_empty_and_foreign_template_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"the chat template in chat_template\.jinja is empty"):
        read(tmp_path, {JINJA: ""})
    (tmp_path / JINJA).write_bytes("é".encode("latin-1"))
    with pytest.raises(BadCheckpoint, match=r"chat_template\.jinja is no text in UTF-8"):
        read_chat_templates(tmp_path, {})


@pytest.mark.parametrize("config", [None, {}])
def test_template_file_counts_without_a_tokenizer_config(config: object, tmp_path: Path) -> None:
    source = checkpoints.make(tmp_path / "model", Model(experts=0, width=64, hidden=64, vision=None))
    (source / CONFIG).unlink()
    if config is not None:
        (source / CONFIG).write_text(json.dumps(config))
    planned = make_plan(source, tmp_path / "out.gguf", QuantizeOptions("F32"))
    assert (source / JINJA).read_bytes() in planned.files[0].header
