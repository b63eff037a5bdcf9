"""Values of options that are not on the command line: from the environment and two TOML files.

`rules` lists the options, `toml` reads a file, `resolve` combines the sources, `defaults` passes the result to the
command that runs, as click's defaults, and `origins` shows it. Every option that a command declares is a setting.
"""
