"""`qwenctl quantize`, for checkpoints on this machine and on the Hub."""
