"""A conversation as token ids: chat template, tokenizer, and the positions of images."""
