"""Choose what to pull: the quantizations that a repository offers, and which of them fit this machine."""
