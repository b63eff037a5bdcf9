"""What is needed of libllama besides models and contexts: its log, devices, threads and cancellation."""
