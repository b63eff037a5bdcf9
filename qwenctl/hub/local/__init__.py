"""The models on this machine: the cache, installed models, lock files and stale downloads."""
