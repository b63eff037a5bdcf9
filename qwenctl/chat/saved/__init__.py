"""What a chat leaves on disk: sessions, saved prefixes and exports."""
