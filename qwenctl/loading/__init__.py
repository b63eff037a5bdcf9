"""Loads models: a model file and a `LoadRequest` come in, an engine with the model loaded goes out."""
