"""Benchmarks: the costs of qwenctl as ratios to llama.cpp, measured side by side. See `RESULTS.md`."""
