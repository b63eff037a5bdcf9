"""The results of a batch: a crash-safe journal, and the output file in its order."""
