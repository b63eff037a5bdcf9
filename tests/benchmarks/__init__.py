"""Benchmarks: what qwenctl costs, as ratios against llama.cpp, measured side by side. See `RESULTS.md`."""
