"""ggml's tensor types, and bindings to the functions of its base library."""
