"""One answer: prefill of the prompt, then decoding token by token until the answer ends."""
