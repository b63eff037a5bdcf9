"""The terminal as a device: streams, signals, and text that is safe to show."""
