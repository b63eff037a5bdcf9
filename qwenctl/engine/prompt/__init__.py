"""A conversation as token ids: chat template, tokenizer, and the places of pictures in it."""
