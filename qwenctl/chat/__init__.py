"""A conversation on a terminal: `loop` runs it, `screen` shows it, `line_input` reads it."""
