"""Quantize a checkpoint while it downloads, without ever storing all of it."""
