"""Where an option's value comes from when it is not on the command line: the environment and two TOML files.

`toml_lines` and `toml_file` read a file, `declared` says which options there are, `resolve` brings both together,
`context` gives the result to the command that runs, and `example` writes a file to begin with. An option that a
command declares is a setting by that alone.
"""
