"""Run Qwen3.5 models on this machine: quantize a published checkpoint, talk to the result."""

__version__ = "0.1.0"
