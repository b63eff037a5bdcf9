"""Units of the packages, folder by folder: no test here starts a process or loads libllama."""
