"""Functions that the model may call.

`calls` parses the model's text into calls, and `schema` converts their arguments to the types of the JSON schemas.
`tool_set` is the interface of a set of functions; `json_tools` and `python_tools` implement it for `--tools`. Terminal
and engine are not known here.
"""
