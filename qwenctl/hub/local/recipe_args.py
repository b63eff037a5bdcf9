"""Serialize the options of a conversion as command line arguments for a lock file, and parse them again.

`QuantizeOptions` come in, and a text goes out that is the same for the same options. An importance matrix is a local
file of the user: only its hash is recorded, so such a recipe cannot be repeated from the lock file alone.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from quantize.file_system import file_sha256
from quantize.plan import QuantizeOptions
from quantize.recipe.recipes import find_recipe
from qwenctl import __version__
from qwenctl.errors import ExitCode, QwenctlError

_WITH_VALUE = ("--tensor-type", "--vision-type", "--split-max-size", "--imatrix")


def recipe_to_args(options: QuantizeOptions) -> str:
    """Serialize the options. Raises BadOption for an unknown type, OSError if the imatrix cannot be read."""
    args = [find_recipe(options.type_name).name]
    args += [arg for text in options.overrides for arg in ("--tensor-type", text)]
    args += ["--imatrix", file_sha256(options.imatrix)] if options.imatrix else []
    args += [] if options.mtp else ["--no-mtp"]
    args += [] if options.vision else ["--no-vision"]
    args += ["--vision-type", options.vision_type.upper()] if options.vision_type else []
    args += ["--split-max-size", str(options.split_bytes)] if options.split_bytes else []
    return shlex.join(args)


def recipe_from_args(text: str) -> QuantizeOptions:
    """Parse the text that `recipe_to_args` made. Raises QwenctlError."""
    try:
        name, *args = shlex.split(text)
        options = QuantizeOptions(name, tool_version=__version__)
        while args:
            arg = args.pop(0)
            # Options with a value consume the next argument, too.
            options = _apply_arg(options, arg, args.pop(0) if arg in _WITH_VALUE else "")
    except (ValueError, IndexError) as error:
        raise QwenctlError(
            f"the lock file has the quantization '{text}', which this version does not support"
        ) from error
    return options


def _apply_arg(options: QuantizeOptions, arg: str, value: str) -> QuantizeOptions:
    """Apply one argument to the options. Raises ValueError if it is unknown, QwenctlError for an imatrix."""
    match arg:
        case "--tensor-type":
            return replace(options, overrides=(*options.overrides, value))
        case "--no-mtp":
            return replace(options, mtp=False)
        case "--no-vision":
            return replace(options, vision=False)
        case "--vision-type":
            return replace(options, vision_type=value)
        case "--split-max-size":
            return replace(options, split_bytes=int(value))
        case "--imatrix":
            raise QwenctlError(
                f"this model was made with an importance matrix (sha256 {value[:12]}..), which lock files cannot store",
                "qwenctl quantize OWNER/NAME --revision COMMIT --type TYPE --imatrix FILE",
                ExitCode.NO_INPUT,
            )
    raise ValueError(arg)
