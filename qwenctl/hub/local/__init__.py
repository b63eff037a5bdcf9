"""What is on this machine: the cache, installed models, their lock files and stale downloads."""
