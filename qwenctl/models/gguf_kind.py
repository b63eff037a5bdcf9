"""Tell what a GGUF file is: a model, or one of the files that publishers put next to models.

A header decides where one can be read: `general.architecture` is "clip" for a vision encoder (mmproj), `general.type`
is "imatrix" or "mmproj". Of a file on the Hub whose header has not been read, the name decides. Listings, pulls and
chats all use these functions, so that they agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from quantize.errors import QuantizeError
from quantize.gguf_header import read_leading_metadata

GGUFKind = Literal["model", "mmproj", "imatrix", "mtp"]

# Words in the name: not part of a longer one, but publishers separate words by any of "-_. ".
_MMPROJ = re.compile(r"(?<![a-z])mm-?proj(?:ector)?(?![a-z])", re.IGNORECASE)
_IMATRIX = re.compile(r"(?<![a-z])imatrix(?![a-z])", re.IGNORECASE)
_MTP = re.compile(r"mtp-", re.IGNORECASE)  # a separate MTP head; elsewhere in a name it is a model with one
# A matrix is computed from a model in 8 bits or more: a name with a smaller type is a model made *with* a matrix.
_SMALL_TYPE = re.compile(r"(?:^|[-_. ])(?:I?Q[1-7]_|TQ\d_|MXFP4|NVFP4)", re.IGNORECASE)
_DTYPE = re.compile(r"(?:^|[-_./ ])(bf16|f16|f32)(?=$|[-_. ])", re.IGNORECASE)
_DTYPES = ("f16", "bf16", "f32")


def kind_from_name(path: str) -> GGUFKind:
    """What the GGUF file at `path` is, judged by its name alone."""
    name = PurePosixPath(path).name
    if _MMPROJ.search(name):
        return "mmproj"
    if _IMATRIX.search(name) and not _SMALL_TYPE.search(name):
        return "imatrix"
    return "mtp" if _MTP.match(name) else "model"


def is_doubtful(path: str) -> bool:
    """Whether the name at `path` is that of a model, but also names an importance matrix: its header should decide."""
    return kind_from_name(path) == "model" and bool(_IMATRIX.search(PurePosixPath(path).name))


def kind_from_metadata(metadata: Mapping[str, object]) -> GGUFKind | None:
    """What a GGUF file with this metadata is; None if it does not say so, as in all splits but the first."""
    architecture, general_type = metadata.get("general.architecture"), metadata.get("general.type")
    if architecture == "clip" or general_type == "mmproj":
        return "mmproj"
    if architecture == "imatrix" or general_type == "imatrix":
        return "imatrix"
    return None if architecture is None else "model"


def read_kind(path: Path) -> GGUFKind:
    """What the GGUF file at `path` is by its header, or by its name if the header does not say it."""
    return kind_from_header(path.name, read_start(path))


def read_start(path: Path) -> Mapping[str, object] | None:
    """The metadata at the start of the GGUF file at `path`; None if it cannot be read."""
    try:
        return read_leading_metadata(path)
    except (QuantizeError, OSError):
        return None


def kind_from_header(name: str, metadata: Mapping[str, object] | None) -> GGUFKind:
    """What the GGUF file `name` is by its metadata, or by its name if they do not say it or cannot be read."""
    by_name = kind_from_name(name)
    if metadata is None:
        return by_name
    by_header = kind_from_metadata(metadata)
    # The header of a separate MTP head is that of a model.
    return by_name if by_header is None or (by_header == "model" and by_name == "mtp") else by_header


def mmproj_rank(path: str) -> int:
    """The position of an mmproj file's type among those that are preferred; lower is better.

    F16 comes first, because nothing computes with higher precision. The type is read from the file's name.
    """
    dtypes = _DTYPE.findall(PurePosixPath(path).name.removesuffix(".gguf"))
    return _DTYPES.index(dtypes[-1].lower()) if dtypes else len(_DTYPES)
