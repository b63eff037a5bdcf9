"""Quantizing a checkpoint while it downloads, without ever storing it whole."""
