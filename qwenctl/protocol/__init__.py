"""The messages between the program and its engine process: frozen values, and how they become JSON lines."""
