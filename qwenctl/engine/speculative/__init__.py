"""Speculative decoding: drafts from the MTP head or from n-grams, and when they pay."""
