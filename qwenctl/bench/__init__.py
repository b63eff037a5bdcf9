"""Measure how fast a model is on this machine, and report it like llama-bench.

`cases` defines and runs the measurements, `energy` measures joules meanwhile, and `table` formats the results.
"""
