"""Makes pages from the code: command line, exit codes, JSON fields, man pages (`python -m docs.generate`)."""
