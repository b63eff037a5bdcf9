"""Functions that the model may call.

The model's text becomes calls (`calls`), whose values have the types that the functions' JSON schemas say (`schema`).
`contract` says what is needed of a set of functions; `described` and `python_file` are the two there are, behind
`--tools`. Nothing here knows a terminal or an engine.
"""
