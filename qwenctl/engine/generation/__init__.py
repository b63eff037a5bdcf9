"""One answer: prefill of the prompt, then token after token until the answer ends."""
