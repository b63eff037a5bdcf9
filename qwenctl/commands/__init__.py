"""The commands of the command line, one module each; they import what is heavy when they run."""
