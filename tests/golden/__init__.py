"""Bytes, tokens, types and logits compared with llama.cpp and the reference implementation."""
