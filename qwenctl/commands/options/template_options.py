"""The options for another chat template than the model's, and for what it is told.

A command takes one argument `template: TemplateOverride`; `with_template_options` replaces it with the options.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from quantize.foreign_json import BadJSON, parse_json, read_limited
from qwenctl.commands.options.common import MAX_TEXT_BYTES, with_usage_error
from qwenctl.commands.options.load_options import with_options
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import TemplateOverride
from qwenctl.protocol.messages import OWN_TEMPLATE_VARIABLES

_EXAMPLE = """--chat-template-kwargs '{"add_vision_id": true}'"""


def parse_variables(text: str) -> dict[str, Any]:
    """The variables in a JSON object. Raises ValueError."""
    try:
        found = parse_json(text, object)
    except BadJSON as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"not a JSON object, for example {_EXAMPLE}")
    taken = next((name for name in found if name in OWN_TEMPLATE_VARIABLES), None)
    if taken is not None:
        raise ValueError(f"{taken} cannot be set" + (": use --no-think" if taken == "enable_thinking" else ""))
    return found


def read_template(path: Path) -> str:
    """The chat template in a file. Raises QwenctlError for a file that is empty, too large or no text, and OSError."""
    data = read_limited(path, MAX_TEXT_BYTES)
    if len(data) > MAX_TEXT_BYTES:
        raise QwenctlError(f"{path} has more than {MAX_TEXT_BYTES >> 20} MiB: no chat template", "", ExitCode.BAD_DATA)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise QwenctlError(f"--chat-template {path.name} is not UTF-8 text", "", ExitCode.BAD_DATA) from error
    if not text.strip():
        raise QwenctlError(f"--chat-template {path.name} is empty", "a chat template is expected", ExitCode.BAD_DATA)
    return text


TemplateFile = Annotated[
    Path | None,
    typer.Option(
        "--chat-template", metavar="FILE", help="Use the Jinja template in this file in place of the model's.",
        allow_from_autoenv=False,
    ),
]  # fmt: skip
TemplateVariables = Annotated[
    Any,
    typer.Option(
        "--chat-template-kwargs", metavar="JSON", help="More variables for the chat template, as a JSON object.",
        parser=with_usage_error(parse_variables), show_default=False,
    ),
]  # fmt: skip


def _template_override(
    chat_template: TemplateFile = None, chat_template_kwargs: TemplateVariables = None
) -> TemplateOverride:
    """The options, as typer reads them from this signature. Raises QwenctlError."""
    source = read_template(chat_template) if chat_template is not None else ""
    return TemplateOverride(source, chat_template_kwargs or {})


def with_template_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, which takes `template: TemplateOverride`, with the options in place of that argument."""
    return with_options("template", _template_override, command)
