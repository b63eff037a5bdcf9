"""A real engine, in a child process or a fork, with the toy model in it."""
