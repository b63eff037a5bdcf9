"""The tiny model of the backend check with all weights widened to float32, and llama.cpp's logits for it.

`python -m tests.support.widened_model FOLDER` prints the NMSE of its logits against the golden ones. No weight and no
activation is rounded to 8 bits on the way, and gguf's own code in Python reads the quantized weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np


def widen(source: Path, target: Path) -> None:
    """Write the model in `source` to `target` with every tensor as float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape([int(size) for size in reversed(tensor.shape)]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(folder: Path) -> None:
    """Write both models to `folder`, and print the error."""
    from qwenctl.backend_check.evaluation import GOLDEN_POSITION, Context, golden_logits, make_sequences
    from qwenctl.backend_check.results import PLAIN
    from qwenctl.backend_check.tiny_model import make_tiny_model

    widened = folder / "widened.gguf"
    widen(make_tiny_model(folder), widened)
    with Context(widened, PLAIN, 1) as context:
        [logits] = context.evaluate([(0, 0, make_sequences()[0][: GOLDEN_POSITION + 1])])
    error = float(((logits[-1] - golden_logits()) ** 2).mean() / (golden_logits() ** 2).mean())
    sys.stdout.write(f"{error}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
