"""Files: the program's own folders, atomic writes, locks, and media files that the user names."""
