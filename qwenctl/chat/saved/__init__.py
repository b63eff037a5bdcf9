"""Conversations on disk: sessions, saved prefixes and exports."""
