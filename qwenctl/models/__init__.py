"""Facts about a model that follow from its GGUF header alone, and its sampling options."""
