"""What libllama needs besides models and contexts: its log, devices, thread count, and cancellation."""
