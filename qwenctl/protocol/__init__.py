"""The messages between the program and its engine process: frozen dataclasses, and their encoding as JSON lines."""
