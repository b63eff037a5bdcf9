"""The program as a process: terminals, pipes, signals, shells."""
