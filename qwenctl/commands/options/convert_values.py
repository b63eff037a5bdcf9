"""Converts the plain values of options without pydantic, whose import takes longer than most commands.

typer's root command comes in, and each of its parameters gets a conversion that does the plain cases itself: no value,
a text, a number within its bounds, one of some choices, a path, and what a parser takes. Everything else, and every
value that is refused, goes to typer's own conversion, so that results and messages are typer's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin


class _NotPlain(Exception):
    """The value needs typer's conversion."""


def convert_plain_values(root: Any) -> None:
    """Have the parameters of typer's `root` command and of all commands below it convert plain values by themselves."""
    for parameter in _parameters(root):
        convert_plain_value(parameter)


def convert_plain_value(parameter: Any) -> None:
    """Have a typer parameter convert plain values by itself.

    It is left as it is if typer has made its conversion already, or is a version that keeps it elsewhere.
    """
    if getattr(parameter, "_runtime_param", parameter) is None:
        descriptor = parameter.type_descriptor
        parameter._runtime_param = _PlainConversion(descriptor.annotation, descriptor.parameter_info)


def _parameters(command: Any) -> Iterator[Any]:
    yield from command.params
    for below in getattr(command, "commands", {}).values():
        yield from _parameters(below)


@dataclass(frozen=True)
class _PlainConversion:
    """Takes the place of typer's `RuntimeParam` for a parameter of the type `annotation`, declared by `info`."""

    annotation: Any
    info: Any

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The converted value. Called by typer; raises what its own conversion raises."""
        is_list = param.multiple or param.nargs == -1
        if value is None:
            return () if is_list else None
        try:
            if not is_list:
                return _converted(value, self.annotation, self.info)
            if get_origin(self.annotation) is list and isinstance(value, list | tuple):
                (inner,) = get_args(self.annotation)
                return [_converted(item, inner, self.info) for item in value]
        except _NotPlain:
            pass
        param._runtime_param = None  # typer makes its own, for this value and all later ones
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _converted(value: Any, annotation: Any, info: Any) -> Any:
    """The value of type `annotation` that typer would make of `value`. Raises _NotPlain if only typer can tell."""
    if info.parser is not None:
        try:
            return info.parser(value)
        except (ValueError, AssertionError):  # typer makes its message of these
            raise _NotPlain from None
    if annotation in (int, float) and type(value) is annotation and not info.clamp:
        if (info.min is None or value >= info.min) and (info.max is None or value <= info.max):
            return value
    elif type(value) is str and _is_unicode(value):
        if annotation is str or (get_origin(annotation) is Literal and value in get_args(annotation)):
            return value
        if annotation is Path and _is_any_path(info):
            return _path(value)
    elif annotation is Path and isinstance(value, Path) and _is_any_path(info):
        return _path(value)
    raise _NotPlain


def _is_unicode(text: str) -> bool:
    """Whether pydantic takes the text: not with the halves of bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_any_path(info: Any) -> bool:
    """Whether a path may be of a file or a folder, or of nothing, and stays as it is written."""
    asked = info.exists or info.writable or info.resolve_path or info.allow_dash or info.path_type is not None
    return bool(info.file_okay and info.dir_okay and not asked)


def _path(value: str | Path) -> Path:
    try:
        os.stat(value)
    except OSError:
        return Path(value)
    except ValueError:  # a null byte
        raise _NotPlain from None
    if not os.access(value, os.R_OK):
        raise _NotPlain
    return Path(value)
