"""Measurements on a machine with a GPU, which CI does not have: `run.sh` builds, makes a model and measures."""
