"""What is particular to Qwen3.5: names, shapes and transforms of tensors, and metadata."""
