"""llama.cpp's own tools, if installed: the commands that convert, quantize and answer.

No test needs them. They made the golden data (`variants.py`), and benchmarks compare against them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

# Runs convert_hf_to_gguf.py with one change: it recognizes a tokenizer by the hash of a test text's tokens, and
# the toy's vocabulary is too small to have a known hash. Its pre-tokenizer is that of Qwen3.5.
_CONVERTER = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[2:]]
runpy.run_path(sys.path[0] + "/convert_hf_to_gguf.py", run_name="__main__")
"""


@dataclass(frozen=True)
class Peer:
    """A llama.cpp installation: its sources, the folder of its programs, and a Python with torch and transformers."""

    sources: Path
    programs: Path
    python: str

    def convert(self, checkpoint: Path, output: Path, out_type: str, *options: str) -> list[str]:
        """The command that converts a checkpoint to GGUF in F32, F16, BF16 or Q8_0."""
        paths = [str(self.sources), str(checkpoint), "--outfile", str(output)]
        return [self.python, "-c", _CONVERTER, *paths, "--outtype", out_type.lower(), *options]

    def quantize(self, source: Path, output: Path, type_name: str, threads: int) -> list[str]:
        """The command that quantizes a GGUF file."""
        return [str(self.programs / "llama-quantize"), str(source), str(output), type_name, str(threads)]

    def answer(self, model: Path, prompt: str, threads: int, *options: str) -> list[str]:
        """The command that prints one answer and exits."""
        llama_cli = [str(self.programs / "llama-cli"), "-m", str(model), "-t", str(threads)]
        return [*llama_cli, "--single-turn", "--simple-io", "--no-display-prompt", *options, "-p", prompt]


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that locate llama.cpp."""
    parser.add_argument("--llama-cpp", type=Path, metavar="DIR", help="llama.cpp's sources (for convert_hf_to_gguf.py)")
    parser.add_argument("--llama-bin", type=Path, metavar="DIR", help="its programs; default: build/bin of the sources")
    parser.add_argument(
        "--llama-python", default=sys.executable, metavar="PYTHON", help="a Python with torch and transformers"
    )


def peer_of(arguments: argparse.Namespace) -> Peer | None:
    """The installation that the options name. Exits with a message if it is missing."""
    if arguments.llama_cpp is None:
        return None
    programs = arguments.llama_bin or arguments.llama_cpp / "build/bin"
    for path in (arguments.llama_cpp / "convert_hf_to_gguf.py", programs / "llama-quantize"):
        if not path.exists():
            sys.exit(f"no such file: {path}")
    return Peer(arguments.llama_cpp.resolve(), programs.resolve(), arguments.llama_python)
