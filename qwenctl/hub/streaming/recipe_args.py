"""The options of a conversion as words of a command line, for a lock file; and back again.

`QuantizeOptions` come in and a text goes out that is the same for the same options. An importance matrix is a file of
the user's: its hash is noted, but nobody else can be asked for it.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from quantize.plan import QuantizeOptions
from quantize.recipe.recipes import find_recipe
from qwenctl import __version__
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.lock_file import sha256_of

_WITH_VALUE = ("--tensor-type", "--vision-type", "--split-max-size", "--imatrix")


def recipe_to_args(options: QuantizeOptions) -> str:
    """The options as words."""
    words = [find_recipe(options.type_name).name]
    words += [word for text in options.overrides for word in ("--tensor-type", text)]
    words += ["--imatrix", sha256_of(options.imatrix)] if options.imatrix else []
    words += [] if options.mtp else ["--no-mtp"]
    words += [] if options.vision else ["--no-vision"]
    words += ["--vision-type", options.vision_type.upper()] if options.vision_type else []
    words += ["--split-max-size", str(options.split_bytes)] if options.split_bytes else []
    return shlex.join(words)


def recipe_from_args(text: str) -> QuantizeOptions:
    """The options that `recipe_words` made a text of. Raises QwenctlError."""
    try:
        name, *words = shlex.split(text)
        options = QuantizeOptions(name, tool_version=__version__)
        while words:
            word = words.pop(0)
            options = _with(options, word, words.pop(0) if word in _WITH_VALUE else "")
    except (ValueError, IndexError) as error:
        raise QwenctlError(
            f"the lock file has the quantization '{text}', which this version does not support"
        ) from error
    return options


def _with(options: QuantizeOptions, word: str, value: str) -> QuantizeOptions:
    match word:
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
    raise ValueError(word)
