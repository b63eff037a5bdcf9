"""What is measured on a machine with a GPU, which CI has not: `run.sh` builds, makes a model and measures."""
