"""The chat on a terminal: its loop, screen, line input and slash commands."""
