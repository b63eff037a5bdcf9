"""The KV cache and recurrent state of one sequence: what is evaluated, checkpointed and saved."""
