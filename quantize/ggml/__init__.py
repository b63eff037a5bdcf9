"""ggml's types, and the functions of its base library."""
