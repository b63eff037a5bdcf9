"""Tests with a real engine that runs the toy model, in a child process or a fork."""
