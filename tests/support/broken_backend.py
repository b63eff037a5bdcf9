"""llama.cpp with a planted fault: the environment variables for an affected process (see broken_backend.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal

Path_, Fault = Literal["plain", "extra"], Literal["crash", "abort", "hang", "wrong"]
_SOURCE = Path(__file__).with_suffix(".c")


def build_broken_backend(folder: Path) -> Path:
    """Compile the preloaded library into `folder`; returns its path."""
    library = folder / "broken_backend.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


def broken(library: Path, path: Path_, fault: Fault) -> dict[str, str]:
    """The environment variables that plant `fault` into `path`."""
    return {"LD_PRELOAD": str(library), "LD_BROKEN_BACKEND": f"{path}:{fault}"}
