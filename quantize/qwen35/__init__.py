"""Everything specific to Qwen3.5: tensor names, shapes and transforms, and metadata."""
