"""The toy's tokenizer and chat template as transformers uses them, and an example tool."""

from __future__ import annotations

import json
from typing import Any

import jinja2
from tokenizers import Tokenizer as ReferenceTokenizer

from tests.support.paths import TOY

REFERENCE = ReferenceTokenizer.from_file(str(TOY / "tokenizer.json"))
SPECIAL = {entry.content: token for token, entry in REFERENCE.get_added_tokens_decoder().items()}
ENVIRONMENT = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - not HTML
ENVIRONMENT.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)  # as in transformers
TEMPLATE = ENVIRONMENT.from_string((TOY / "chat_template.jinja").read_text())
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
