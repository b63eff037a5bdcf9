"""Whether the tensors of two GGUF files are the same: `python -m tests.benchmarks.same_tensors FIRST SECOND`.

`ssm_a` is left out: its exponential differs by one unit in the last place between torch and us (`support/variants.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.gguf_files import tensors

if __name__ == "__main__":
    first, second = (tensors(Path(path)) for path in sys.argv[1:])
    different = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    if any(not name.endswith("ssm_a") for name in different):
        sys.exit(f"different tensors: {sorted(different)[:5]}")
