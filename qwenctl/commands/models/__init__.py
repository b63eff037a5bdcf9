"""The commands for models: `pull`, `ls`, `show`, `verify`, `rm` and `clean`."""
