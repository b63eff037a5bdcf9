"""Which of the quantizations that a repository offers fits this machine."""
