"""The command `qwenctl batch`: its options, the command, and what it shows."""
