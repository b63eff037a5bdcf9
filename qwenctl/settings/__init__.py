"""Where an option's value comes from when it is not on the command line: the environment and two TOML files.

`rules` says which options there are, `toml` reads a file, `resolve` brings both together, `defaults` gives the result
to the command that runs, as click's defaults, and `origins` shows it. An option that a command declares is a setting by
that alone.
"""
