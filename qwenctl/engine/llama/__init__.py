"""What libllama needs besides models and contexts: its tokenizer, callbacks, devices and thread count."""
