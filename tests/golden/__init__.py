"""Bytes, tokens, types and logits against those of llama.cpp and the reference implementation."""
