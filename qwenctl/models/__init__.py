"""Facts about a GGUF model that its header alone tells."""
