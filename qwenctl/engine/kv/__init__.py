"""The KV cache and recurrent state of one sequence: evaluated tokens, checkpoints, and saved states."""
