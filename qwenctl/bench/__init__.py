"""How fast a model is on this machine, measured and shown as llama-bench shows it.

`cases` says what is measured, `measuring` has an engine do it, `energy` counts joules meanwhile, `table` and `picture`
show the results.
"""
